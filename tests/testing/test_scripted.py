"""Scripted agents: turns that end as their script says, however often the process dies under them."""

import asyncio
from typing import Any

import msgspec
import pytest

from turnkeeper import Retry, Settings
from turnkeeper.testing import Faults, Outcome, ScriptedFailure, World, each_crash, run, scripted_agent

SETTINGS = Settings(retry_base_s=0.1, shutdown_s=1.0, recoveries_max=1_000)


def played(endings: Any, turns: int, faults: Faults | None = None, **options: Any) -> tuple[list[str], Outcome]:
    """Run as many turns of a scripted agent as asked, one after another; return how each ended."""
    ended: list[str] = []

    async def life(world: World) -> None:
        ended.clear()
        actor = scripted_agent(world, "actor", endings, **options)
        async with world.runtime([actor], settings=SETTINGS) as runtime:
            for number in range(turns):
                result = await runtime.ask("s", "actor", number, key=f"{number}")
                said = f"{result.value}" if result.outcome == "completed" else result.failure.type
                ended.append(f"{result.outcome} {said}")

    return ended, run(life, faults=faults)


@pytest.mark.parametrize(
    ("ending", "said", "lives"),
    [
        ("ok", "completed 0", 1),
        ("fail", f"failed {ScriptedFailure.__name__}", 1),
        ("hang", "failed DeadlineExceeded", 1),
        ("crash", "completed 0", 2),
        ("slow", "completed 0", 1),
    ],
)
def test_a_turn_ends_as_its_script_says(ending: str, said: str, lives: int) -> None:
    """Each of the five words."""
    ended, outcome = played([ending], 1)

    assert ended == [said]
    assert outcome.lives == lives


@pytest.mark.parametrize(
    ("ending", "options", "least_s", "most_s"),
    [
        ("ok", {}, 0, 1),
        ("slow", {}, 60, 61),
        ("slow", {"slow_s": 500.0}, 500, 501),
        ("hang", {"turn_s": 30.0}, 30, 35),
        ("hang", {}, 900, 905),
        ("fail", {"retry": Retry(retries_max=0)}, 0, 1),
    ],
)
def test_an_ending_takes_its_virtual_time(ending: str, options: dict[str, Any], least_s: float, most_s: float) -> None:
    """Slow is as slow as it is told to be, and hanging lasts until the turn's limit."""
    _, outcome = played([ending], 1, **options)

    assert least_s <= outcome.virtual_s - Faults().restart_s <= most_s


def test_a_turn_that_fails_does_so_in_every_attempt() -> None:
    """Retrying does not help: the script is the turn's, not the run's."""
    attempts: list[int] = []

    async def life(world: World) -> None:
        actor = scripted_agent(world, "actor", ["fail", "ok"], retry=Retry(retries_max=2))
        handler = actor.handler

        async def counted(turn: Any) -> Any:
            attempts.append(turn.attempt)
            return await handler(turn)

        async with world.runtime([msgspec.structs.replace(actor, handler=counted)], settings=SETTINGS) as runtime:
            assert (await runtime.ask("s", "actor", 1, key="1")).outcome == "failed"
            assert (await runtime.ask("s", "actor", 2, key="2")).value == 2

    run(life)

    assert attempts == [1, 2, 3, 1]


def test_the_last_word_stands_for_all_later_turns() -> None:
    """A script is as long as what is remarkable."""

    assert played(["fail", "ok"], 4)[0] == ["failed ScriptedFailure"] + [f"completed {number}" for number in (1, 2, 3)]


MIXED = ["ok", "fail", "crash", "slow", "crash", "fail", "ok"]
ENDED = [
    "completed 0",
    "failed ScriptedFailure",
    "completed 2",
    "completed 3",
    "completed 4",
    "failed ScriptedFailure",
    "completed 6",
]


def test_turns_keep_their_places_across_lives() -> None:
    """A kill in the middle moves no ending to another turn."""
    ended, outcome = played(MIXED, 7)

    assert ended == ENDED
    assert outcome.lives == 3


@pytest.mark.parametrize("point", range(1, 40, 3))
def test_turns_keep_their_places_wherever_the_process_is_killed(point: int) -> None:
    """Before and after any commit."""
    ended, outcome = played(MIXED, 7, Faults(crash_at=point))

    assert ended == ENDED
    assert outcome.lives == 4


def test_two_agents_of_a_world_have_a_script_each() -> None:
    """Places are counted by the agent's name."""

    async def life(world: World) -> None:
        actors = [scripted_agent(world, "ann", ["fail", "ok"]), scripted_agent(world, "bob", ["ok", "fail"])]
        async with world.runtime(actors, settings=SETTINGS) as runtime:
            ended = [
                (await runtime.ask(f"s{number}", name, 0, key="k")).outcome
                for name in ("ann", "bob")
                for number in range(2)
            ]
        assert ended == ["failed", "completed", "completed", "failed"]

    run(life)


def test_each_crash_around_a_script_leaves_it_as_it_is() -> None:
    """Side by side in many sessions: as many fail as the script has words for it."""

    async def life(world: World) -> None:
        actor = scripted_agent(world, "actor", ["ok", "fail", "slow", "ok"], retry=Retry(retries_max=1))
        async with world.runtime([actor], settings=SETTINGS) as runtime:
            asked = [runtime.ask(f"s{number}", "actor", number, key="k") for number in range(4)]
            results = await asyncio.gather(*asked)
        assert [result.outcome for result in results].count("failed") == 1

    assert each_crash(life, seed=3)[-1].lives == 1


@pytest.mark.parametrize("endings", [(), [], ["ok", "explode"], "ok"])
def test_a_script_of_unknown_words_is_refused(endings: Any) -> None:
    """Before anything runs; also an empty one."""

    async def life(world: World) -> None:
        scripted_agent(world, "actor", endings)

    with pytest.raises(ValueError, match="endings must be of ok, fail, hang, crash, slow, got"):
        run(life)
