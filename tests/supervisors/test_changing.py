"""Changed code on live turns: contracts of tools, versions of handlers, and calls that are not the recorded ones."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import check_invariants, details, until

from turnkeeper import Agent, Effect, Runtime, Settings, Turn, agent, tool

pytestmark = pytest.mark.anyio
CLOSING = Settings(shutdown_s=0.01, retries_max=0)


def looking(kind: type, version: str = "", accepts: tuple[str, ...] = ()) -> Any:
    """Return the tool `look` as a release has it: its result is of this type."""

    async def look(text: str) -> Any:
        return kind(1)

    look.__annotations__["return"] = kind
    return tool(effect=Effect.PURE, version=version, accepts=accepts)(look)


def desk(look: Any, said: str, *, waits: bool, **options: Any) -> Agent:
    """Return the agent `desk` as a release has it: it looks, and in the first release it then waits for its end."""

    async def handler(turn: Turn) -> Any:
        found = await turn.call(look, "W1")
        if waits:
            await anyio.sleep_forever()
        return [said, found]

    return agent("desk", tools=[look], **options)(handler)


async def cut_off(path: Path, released: Agent) -> None:
    """Let a turn record its look, and close."""
    async with Runtime(path, [released], settings=CLOSING) as runtime:
        await runtime.tell("s", "desk", None, key="k")
        await until(lambda: runtime.statistics().steps == 1)


async def gone_on(path: Path, *released: Agent) -> Any:
    async with Runtime(path, released, settings=CLOSING) as runtime:
        return await runtime.ask("s", "desk", None, key="k")


# ---------------------------------------------------------------- contracts of tools


async def test_a_record_under_another_contract_is_refused_with_the_ways_out(path: Path) -> None:
    """Its result had another type then; the error names both contracts."""
    await cut_off(path, desk(looking(int), "1", waits=True))
    failure = (await gone_on(path, desk(looking(str), "2", waits=False))).failure

    assert failure.type == "ContractChanged"
    assert all(way in failure.message for way in ("accept", "fork", "older code"))
    check_invariants(path)


async def test_a_tool_that_accepts_the_older_version_answers_from_its_record(path: Path) -> None:
    """As its own type; the version and the hash stand with the step."""
    await cut_off(path, desk(looking(int, "1"), "1", waits=True))
    assert [detail.contract.partition(":")[0] for detail in details(path, "step_succeeded")] == ["1"]

    result = await gone_on(path, desk(looking(float, "2", ("1",)), "2", waits=False))
    assert result.value == ["2", 1.0]


async def test_a_record_that_does_not_fit_the_accepting_type_is_a_contract_violation(path: Path) -> None:
    """Loud, with the path; never a value of the wrong type."""
    await cut_off(path, desk(looking(int, "1"), "1", waits=True))
    failure = (await gone_on(path, desk(looking(str, "2", ("1",)), "2", waits=False))).failure

    assert failure.type == "ContractViolation"
    assert "look" in failure.message


async def test_an_unchanged_contract_is_no_change_however_the_code_moved(path: Path) -> None:
    """The same types under the same version, in another function of another release."""
    await cut_off(path, desk(looking(int, "1"), "1", waits=True))

    assert (await gone_on(path, desk(looking(int, "1"), "2", waits=False))).value == ["2", 1]


# ---------------------------------------------------------------- versions of handlers


async def test_a_turn_finishes_under_the_version_it_started_under(path: Path) -> None:
    """Where the runtime is given both; new turns start under the newest."""
    look = looking(int)
    await cut_off(path, desk(look, "1", waits=True, version="1"))
    older, newer = desk(look, "1", waits=False, version="1"), desk(look, "2", waits=False, version="2")
    async with Runtime(path, [older, newer], settings=CLOSING) as runtime:
        assert (await runtime.ask("s", "desk", None, key="k")).value == ["1", 1]
        assert (await runtime.ask("s", "desk", None)).value == ["2", 1]
        assert (await runtime.checkpoint(1)).version == "1"


async def test_a_newer_handler_may_adopt_the_turns_of_an_older_one(path: Path) -> None:
    """It says whose."""
    look = looking(int)
    await cut_off(path, desk(look, "1", waits=True, version="1"))

    assert (await gone_on(path, desk(look, "2", waits=False, version="2", adopts=["1"]))).value == ["2", 1]


async def test_without_either_the_turn_fails_with_a_clear_choice(path: Path) -> None:
    """Both versions are named, and what to do."""
    look = looking(int)
    await cut_off(path, desk(look, "1", waits=True, version="1"))
    failure = (await gone_on(path, desk(look, "2", waits=False, version="2"))).failure

    assert failure.type == "VersionGone"
    assert all(word in failure.message for word in ("'1'", "'2'", "adopts", "fork"))


async def test_a_turn_that_has_done_nothing_yet_may_begin_under_any_version(path: Path) -> None:
    """It was leased by the older process, and cut off before its first step."""

    @agent("desk", version="1")
    async def idle(turn: Turn) -> None:
        await anyio.sleep_forever()

    async with Runtime(path, [idle], settings=CLOSING) as runtime:
        await runtime.tell("s", "desk", None, key="k")
        await until(lambda: runtime.statistics().running == 1)

    assert (await gone_on(path, desk(looking(int), "2", waits=False, version="2"))).value == ["2", 1]
    check_invariants(path)


async def test_two_agents_of_one_name_and_one_version_are_refused() -> None:
    """Which one would it be?"""
    one = desk(looking(int), "1", waits=False, version="1")
    with pytest.raises(ValueError, match="desk"):
        Runtime("never.db", [one, one])
