"""Runs: one seed or many, every crash point in turn, and what a failure says about itself."""

import asyncio
from typing import Any

import pytest

from turnkeeper import Effect, OnDoubt, agent, tool
from turnkeeper.testing import Fault, Faults, Load, SeededSchedule, Stalled, Violated, World, each_crash, explore, run


@agent("echo")
async def echo(turn: Any) -> Any:
    return turn.input


async def serve(world: World) -> None:
    """Two sessions side by side, and an effect that may be repeated."""

    @tool(effect=Effect.IDEMPOTENT)
    async def note(word: str) -> str:
        if not world.happened(word):
            world.happen(word)
        return word

    @agent("noting")
    async def noting(turn: Any) -> Any:
        return await turn.call(note, turn.input)

    async with world.runtime([echo, noting]) as runtime, asyncio.TaskGroup() as group:
        group.create_task(runtime.ask("a", "echo", 1, key="1"))
        group.create_task(runtime.ask("b", "noting", "word", key="2"))


def racing(name: str = "order") -> Any:
    """Return a life that fails where the second of two tasks is first."""

    async def life(world: World) -> None:
        order: list[int] = []

        async def go(number: int) -> None:
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in (1, 2):
                group.create_task(go(number), name=f"runner {number}")
        if order != [1, 2]:
            world.report(Violated(name, f"{order}"))

    return life


# ---------------------------------------------------------------- one


@pytest.mark.parametrize("faults", [None, Faults(crash_rate=0.1), Faults(at={3: Fault.TEAR}, latency_s=1.0)])
def test_equal_arguments_give_equal_outcomes(faults: Faults | None) -> None:
    """All of it: rows, lives, points, steps and time."""
    for seed in range(8):
        assert run(serve, seed=seed, faults=faults) == run(serve, seed=seed, faults=faults)


def test_an_outcome_says_what_the_run_came_to() -> None:
    """A run that nothing disturbs takes one life."""
    outcome = run(serve, seed=5)

    assert (outcome.seed, outcome.lives, outcome.turns, outcome.live) == (5, 1, 2, 0)
    assert outcome.points > 6
    assert outcome.steps > 20
    assert len(outcome.digest) == 64


def test_a_run_follows_the_schedule_it_is_given() -> None:
    """In place of its seed's."""
    outcomes = {seed: run(serve, seed=1, schedule=SeededSchedule(seed)) for seed in range(12)}

    assert outcomes[1] == run(serve, seed=1)
    assert len({outcome.steps for outcome in outcomes.values()} | {o.digest for o in outcomes.values()}) > 2


def test_a_load_reaches_the_life() -> None:
    """As it was given."""
    seen: list[Load] = []

    async def life(world: World) -> None:
        seen.append(world.load)

    run(life, load=Load(hours=3.0, hang_rate=0.5))
    run(life)

    assert seen == [Load(hours=3.0, hang_rate=0.5), Load()]


def test_a_run_that_never_comes_to_its_end_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A life that always kills itself is lived again only so often."""
    monkeypatch.setattr("turnkeeper.testing.runs._LIVES_MAX", 20)

    async def life(world: World) -> None:
        world.kill()

    with pytest.raises(Stalled, match="not over after 20 lives"):
        run(life)


def test_a_life_that_lasts_for_ever_is_stalled() -> None:
    """Eleven virtual days are enough for anything."""

    async def life(world: World) -> None:
        while True:  # noqa: ASYNC110 - it never ends
            await asyncio.sleep(3_600)

    with pytest.raises(Stalled, match="virtual seconds"):
        run(life)


# ---------------------------------------------------------------- many


def test_exploring_gives_an_outcome_for_each_seed_in_order() -> None:
    """The same that each run alone gives."""
    faults = Faults(crash_rate=0.05)

    assert explore(serve, [4, 2, 9], faults=faults) == [run(serve, seed=seed, faults=faults) for seed in (4, 2, 9)]
    assert explore(serve, []) == []


def test_a_violation_says_its_seed_how_to_repeat_it_and_which_upset_it_takes() -> None:
    """Explored up to the first seed that fails, and no further."""
    seeds: list[int] = []
    life = racing()

    async def noted(world: World) -> None:
        seeds.append(world.seed)
        await life(world)

    with pytest.raises(Violated) as caught:
        explore(noted, range(100), repeat="again --seed {seed}")
    seed = max(seeds)
    notes = caught.value.__notes__

    assert str(caught.value) == "order: [2, 1]"
    assert notes[0] == f"seed {seed}; repeat it with: again --seed {seed}"
    assert notes[1].startswith("it takes 1 of ")
    assert notes[2].startswith("choice ")
    assert notes[2].endswith("runner 2 before runner 1")

    with pytest.raises(Violated, match=r"order: \[2, 1\]"):
        run(life, seed=seed)


def test_without_a_way_to_repeat_it_the_seed_is_enough() -> None:
    """And a failure of any order says that no race is needed."""

    async def life(world: World) -> None:
        world.report(Violated("always", "broken"))

    with pytest.raises(Violated) as caught:
        explore(life, [7])

    assert caught.value.__notes__ == [
        "seed 7",
        "it fails without any upset of the order of arrival",
    ]


def test_a_violation_under_kills_is_made_small_as_well() -> None:
    """The schedule is one for all lives of the run."""

    async def life(world: World) -> None:
        await serve(world)
        if world.life == 2:
            world.report(Violated("second lives", "are not wanted"))

    with pytest.raises(Violated, match="second lives") as caught:
        explore(life, range(20), faults=Faults(crash_rate=0.1))

    notes = caught.value.__notes__
    assert notes[0].startswith("life 1 was killed at ")
    assert any(note.startswith("seed ") for note in notes)
    assert not any("cannot be replayed" in note for note in notes)


def test_what_a_life_raises_itself_says_its_seed_too() -> None:
    """An assertion that fails under one seed in a thousand is worth nothing without it."""

    async def life(world: World) -> None:
        assert world.seed != 3

    with pytest.raises(AssertionError) as caught:
        explore(life, range(10))

    assert any("seed 3" in note for note in getattr(caught.value, "__notes__", ()))


# ---------------------------------------------------------------- every crash point


@pytest.mark.parametrize("seed", range(3))
def test_every_crash_point_is_tried_and_the_last_run_is_untouched(seed: int) -> None:
    """As many outcomes as the untouched run has points, and itself."""
    points = run(serve, seed=seed).points
    outcomes = each_crash(serve, seed=seed)

    assert len(outcomes) == points + 1
    assert [outcome.lives for outcome in outcomes] == [2] * points + [1]
    assert outcomes[-1] == run(serve, seed=seed)
    assert all((outcome.turns, outcome.live) == (2, 0) for outcome in outcomes)


def test_other_faults_stay_as_planned_while_points_are_tried() -> None:
    """Both happen."""
    outcomes = each_crash(serve, faults=Faults(at={2: Fault.DELAY}, delay_s=20.0))

    assert min(outcome.virtual_s for outcome in outcomes[3:]) > 20
    assert outcomes[-1].lives == 1


def test_a_life_without_points_is_run_once() -> None:
    """There is nowhere to kill it."""

    async def life(world: World) -> None: ...

    assert [outcome.lives for outcome in each_crash(life)] == [1]


def test_a_violation_at_a_crash_point_says_at_which() -> None:
    """An effect repeated in doubt: only a kill between the call and its record shows it."""

    async def life(world: World) -> None:
        @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.RETRY)
        async def charge() -> None:
            world.happen("charge")

        @agent("careless")
        async def careless(turn: Any) -> None:
            await turn.call(charge)

        async with world.runtime([careless]) as runtime:
            await runtime.ask("s", "careless", None, key="k")

    with pytest.raises(Violated, match="charge happened twice") as caught:
        each_crash(life, seed=1)
    killed, life_of, note = caught.value.__notes__
    point = int(note.split()[6].rstrip(":"))

    assert killed.startswith("life 1 was killed at ")
    assert killed.endswith("effect.after disk-1/1/charge/#0")
    assert life_of.startswith("this was in life 2, at ")
    assert note == f"to be killed at crash point {point}: run(life, seed=1, faults=Faults(crash_at={point}))"

    with pytest.raises(Violated, match="charge happened twice"):
        run(life, seed=1, faults=Faults(crash_at=point))

    assert run(life, seed=1, faults=Faults(crash_at=point - 2)).lives == 2
