"""Schedules: a seed's choices, the same choices again, and the few among them that matter."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from turnkeeper.testing import ReplayedSchedule, Schedule, SeededLoop, SeededSchedule, Violated, World, run, shrink


def waiting(count: int) -> list[Any]:
    """Return as many callbacks that are ready."""
    loop = asyncio.new_event_loop()
    try:
        return [loop.call_soon(print) for _ in range(count)]
    finally:
        loop.close()


def draws(schedule: Schedule, lengths: list[int]) -> list[int]:
    ready = waiting(max(lengths))
    return [schedule.choose(ready[:length]) for length in lengths]


LENGTHS = [2 + number % 7 for number in range(2_000)]


# ---------------------------------------------------------------- a seed's choices


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 17, -5, 10**12])
def test_a_seed_always_chooses_alike_and_always_somebody_who_is_there(seed: int) -> None:
    """Equal seeds, equal choices; kept or not."""
    chosen = draws(SeededSchedule(seed), LENGTHS)

    assert draws(SeededSchedule(seed, keep=True), LENGTHS) == chosen
    assert all(0 <= number < length for number, length in zip(chosen, LENGTHS, strict=True))


def test_two_seeds_choose_differently() -> None:
    """A thousand seeds are a thousand schedules."""

    assert len({tuple(draws(SeededSchedule(seed), LENGTHS[:60])) for seed in range(200)}) > 190


@pytest.mark.parametrize(("seed", "bold"), [(0, 1.0), (1, 0.5), (2, 0.1), (3, 1.0), (6, 0.1)])
def test_a_seed_is_as_bold_as_its_number_says(seed: int, bold: float) -> None:
    """Some seeds upset the order at every choice, some at every other, some seldom."""
    upset = sum(chosen > 0 for chosen in draws(SeededSchedule(seed), [10] * 4_000)) / 4_000

    assert upset == pytest.approx(bold * 0.9, abs=0.05)


def test_a_bold_seed_takes_anybody_as_often_as_anybody_else() -> None:
    """No place in line is out of reach, and none is preferred."""
    taken = Counter(draws(SeededSchedule(0), [4] * 8_000))

    assert sorted(taken) == [0, 1, 2, 3]
    assert all(1_800 < times < 2_200 for times in taken.values())


# ---------------------------------------------------------------- the same again


def test_the_upsets_are_the_choices_that_were_not_the_first_in_line() -> None:
    """Numbered by the choice, from 0; none are kept without being asked for."""
    kept, silent = SeededSchedule(1, keep=True), SeededSchedule(1)
    chosen = draws(kept, LENGTHS)
    draws(silent, LENGTHS)

    assert dict(kept.upsets) == {number: place for number, place in enumerate(chosen) if place}
    assert dict(silent.upsets) == {}


@pytest.mark.parametrize("seed", range(4))
def test_upsets_kept_and_replayed_give_the_same_run(seed: int) -> None:
    """The whole run: every callback in the same order."""

    def order(schedule: Schedule) -> list[int]:
        seen: list[int] = []

        async def walk(number: int) -> None:
            for _ in range(5):
                seen.append(number)
                await asyncio.sleep(number % 2)

        async def main() -> None:
            await asyncio.gather(*(walk(number) for number in range(6)))

        loop = SeededLoop(schedule)
        loop.run_until_complete(main())
        loop.abandon()
        return seen

    kept = SeededSchedule(seed, keep=True)
    seen = order(kept)

    assert order(ReplayedSchedule(kept.upsets)) == seen
    assert order(ReplayedSchedule({})) != seen


@pytest.mark.parametrize(
    ("upsets", "chosen", "said"),
    [
        ({}, [0, 0, 0], 0),
        ({1: 1}, [0, 1, 0], 1),
        ({0: 9, 2: 2}, [2, 0, 2], 2),
        ({7: 1}, [0, 0, 0], 0),
    ],
)
def test_upsets_that_no_longer_fit_take_the_last_in_line(upsets: dict[int, int], chosen: list[int], said: int) -> None:
    """One beyond the line, or beyond the end of the run, breaks nothing."""
    schedule = ReplayedSchedule(upsets)

    assert draws(schedule, [3, 3, 3]) == chosen
    assert len(schedule.said) == said


def test_what_an_upset_did_is_said_with_the_names_of_both() -> None:
    """A task by its name, a callback by its function's."""
    schedule = ReplayedSchedule({0: 1, 1: 1})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(asyncio.sleep(0), name="ann"), asyncio.create_task(asyncio.sleep(0), name="bob")]
        loop.call_soon(waiting, 1)
        await asyncio.wait(tasks)

    loop = SeededLoop(schedule)
    loop.run_until_complete(main())
    loop.abandon()

    assert schedule.said[0] == "choice 0: bob before ann"
    assert schedule.said[1] == "choice 1: waiting before ann"


# ---------------------------------------------------------------- few of them


async def race(world: World) -> None:
    """Lose an update if, and only if, the second reads between the first's read and its write."""
    balance = 0

    async def deposit() -> None:
        nonlocal balance
        seen = balance
        await asyncio.sleep(0)
        balance = seen + 1

    async def noise() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def first() -> None:
        await deposit()

    async def second() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await deposit()

    named = {"first": first, "second": second, **{f"noise {number}": noise for number in range(5)}}
    async with asyncio.TaskGroup() as group:
        for name, one in named.items():
            group.create_task(one(), name=name)
    if balance != 2:
        world.report(Violated("no update is lost", f"{balance}"))


def failing_seed(life: Any) -> int:
    for seed in range(0, 400, 4):
        try:
            run(life, seed=seed)
        except Violated:
            return seed
    raise AssertionError("no seed fails")


def test_shrinking_finds_the_few_upsets_that_matter_in_a_planted_race() -> None:
    """Out of dozens: those that bring the second's read before the first's write."""
    seed = failing_seed(race)
    said = shrink(lambda schedule: run(race, seed=seed, schedule=schedule), seed, Violated("no update is lost", ""))
    words = said[0].split()
    taken, kept = int(words[2]), int(words[4])

    assert kept > 20
    assert 1 <= taken <= 6
    assert len(said) == 1 + taken
    assert all("first" in line or "second" in line for line in said[-1:])


RULE = Violated("rule", "planted")


def scripted(fails: Callable[[list[int]], str], choices: int = 60) -> tuple[Callable[[Schedule], None], list[int]]:
    """Return an attempt that makes so many choices, and breaks the rule that `fails` says of them; with its count."""
    ready, attempts = waiting(3), [0]

    def attempt(schedule: Schedule) -> None:
        attempts[0] += 1
        rule = fails([schedule.choose(ready) for _ in range(choices)])
        if rule:
            raise Violated(rule, "planted")

    return attempt, attempts


def test_shrinking_finds_the_one_upset_that_matters() -> None:
    """The one, and what it did, in words."""
    seed = 4
    matters = next(
        number for number, place in enumerate(draws(SeededSchedule(seed), [3] * 60)) if place and number > 30
    )
    attempt, _ = scripted(lambda chosen: "rule" if chosen[matters] else "")
    said = shrink(attempt, seed, RULE)

    assert said[0].startswith("it takes 1 of ")
    assert len(said) == 2
    assert said[1].startswith(f"choice {matters}: ")


def test_shrinking_does_not_drift_to_another_rule() -> None:
    """What breaks in another way, or raises something else, is not what is looked for."""

    def fails(chosen: list[int]) -> str:
        upsets = sum(place > 0 for place in chosen)
        if upsets < 5:
            return "another rule"
        if upsets == 7:
            raise KeyError
        return "rule"

    attempt, _ = scripted(fails)

    assert shrink(attempt, 0, RULE)[0].split()[2] in {"5", "8"}


def test_shrinking_says_so_where_it_fails_in_the_order_of_arrival_too() -> None:
    """Then no upset is needed."""
    attempt, _ = scripted(lambda _: "rule")

    assert shrink(attempt, 0, RULE) == ["it fails without any upset of the order of arrival"]


def test_what_raises_anything_else_is_made_small_by_its_type() -> None:
    """A life may fail without an oracle; another type is another failure."""

    def fails(chosen: list[int]) -> str:
        if chosen[40]:
            raise KeyError
        if chosen[41]:
            raise ZeroDivisionError
        return "another"

    attempt, _ = scripted(fails)
    seed = next(seed for seed in range(99) if draws(SeededSchedule(seed), [3] * 60)[40])

    assert shrink(attempt, seed, KeyError())[0].startswith("it takes 1 of ")


def test_shrinking_says_so_where_the_schedule_cannot_be_replayed() -> None:
    """A life that follows from more than its schedule cannot be made small."""
    attempt, attempts = scripted(lambda _: "rule" if attempts[0] == 1 else "")

    assert "cannot be replayed" in shrink(attempt, 0, RULE)[0]


def test_shrinking_ends_within_its_attempts_where_every_upset_matters() -> None:
    """Three hundred, and those that keep, try once and show."""
    expected = draws(SeededSchedule(0), [3] * 3_000)
    attempt, attempts = scripted(lambda chosen: "rule" if chosen == expected else "", choices=3_000)
    shrink(attempt, 0, RULE)

    assert attempts[0] <= 303
