"""State: what an agent remembers between turns is committed with the turn that leaves it, and only then."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import anyio
import msgspec
import pytest
from desks import SLOW, Desk, desk, said, stored
from looking import FAST, Once, check_invariants, played, playing, rows, token, until

from turnkeeper import Effect, Happened, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.audit import audit
from turnkeeper.testing import Faults, World, explore

# ---------------------------------------------------------------- it is remembered


async def test_a_turn_begins_with_what_the_last_one_left(path: Path) -> None:
    """Across runtimes too; each session, tenant and agent remembers for itself."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert await said(runtime, "a", "b") == [1, 2]
        assert await said(runtime, "a", session_id="other") == [1]
        assert (await runtime.ask("s", "desk", "a", tenant="acme")).value == 1
    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert await said(runtime, "c") == [3]
        assert await runtime.state("s", "desk") == Desk(3, ["a", "b", "c"])
        assert await runtime.state("s", "desk", tenant="acme") == Desk(1, ["a"])

    assert audit(path).violations == []


@dataclass
class Plain:
    tags: set[str] = field(default_factory=set)
    count: int = 0


class Loose(TypedDict, total=False):
    count: int


STATES: dict[str, tuple[Any, Any, Any]] = {
    "a struct": (Desk, Desk(), Desk(2, ["a"])),
    "a dataclass": (Plain, Plain(), Plain({"b", "a"}, 3)),
    "a typed dict": (Loose, {}, {"count": 1}),
    "a dict of texts": (dict[str, int], {}, {"b": 1, "a": 2}),
    "a dict of numbers": (dict[int, bytes], {}, {7: b"\xff"}),
    "a set": (set[int], set(), {3, 1, 2}),
    "a list of structs": (list[Desk], [], [Desk(1)]),
    "a number": (int, 0, 41),
    "infinity": (float, 0.0, float("inf")),
}


@pytest.mark.parametrize("kind", STATES)
async def test_a_state_is_of_the_type_that_was_declared(kind: str, path: Path) -> None:
    """Made without arguments at first, and read as it was assigned."""
    type_, first, left = STATES[kind]
    found = []

    async def handler(turn: Turn) -> None:
        found.append(turn.state)
        turn.state = left

    play = playing(handler, state=type_)
    await played(path, play)
    await played(path, play)

    assert found == [first, left]
    assert type(found[1]) is type(left)
    assert [turn_id for *_, turn_id in stored(path)] == [1], "the second turn left what it found"


async def test_what_a_turn_does_not_change_is_not_written(path: Path) -> None:
    """Nor what it does not ask for; a first state is stored with the first turn that asks for it."""

    async def handler(turn: Turn) -> None:
        if turn.input == "look":
            assert turn.state.count in {0, 1}
        if turn.input == "count":
            turn.state.count += 1
        if turn.input == "same":
            turn.state = Desk(1)

    async with Runtime(path, [agent("desk", state=Desk)(handler)], settings=FAST) as runtime:
        left_by = []
        for payload in ("nothing", "look", "look", "count", "look", "same", "nothing"):
            await said(runtime, payload)
            left_by.append([turn_id for *_, turn_id in stored(path)])

    assert left_by == [[], [2], [2], [4], [4], [4], [4]]


async def test_an_agent_that_declares_no_state_has_none_and_reads_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for it says what to declare; not asking costs no look into the store."""

    async def handler(turn: Turn) -> object:
        return turn.state if turn.input == "ask" else None

    async with Runtime(path, [agent("desk")(handler)], settings=SLOW) as runtime:
        monkeypatch.setattr(runtime._store, "state", None)
        answers = await said(runtime, "rest", "ask")

    assert answers[0] is None
    assert answers[1][0] == "ContractViolation"
    assert '@agent("desk", state=...)' in answers[1][1]


# ---------------------------------------------------------------- with the turn, and only then


async def test_a_turn_that_fails_changes_nothing(path: Path) -> None:
    """What it did to the state is gone, and the next turn begins with what was there before."""
    async with Runtime(path, [desk], settings=SLOW) as runtime:
        assert await said(runtime, "a", "broken", "b") == [1, ("ValueError", "broken"), 2]
        assert await runtime.state("s", "desk") == Desk(2, ["a", "b"])

    assert stored(path)[0][-1] == 3


async def test_each_run_of_a_retried_turn_begins_with_the_same_state(path: Path) -> None:
    """However often it runs, what it does to the state is done once."""
    found = []

    async def handler(turn: Turn) -> None:
        found.append(turn.state.count)
        turn.state.count += 1
        if turn.attempt < 3:
            raise Once

    play = playing(handler, state=Desk)
    await played(path, play)
    await played(path, play)

    assert found == [0, 0, 0, 1, 1, 1]
    assert stored(path)[0][2]["count"] == 2


async def test_a_turn_that_waited_goes_on_from_the_state_it_began_with(path: Path) -> None:
    """What it did before the wait is not committed by it: it does it again, in the run that ends."""
    found = []

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def refund() -> str:
        await asyncio.sleep(60)
        return "never"

    @agent("desk", state=Desk, tools=[refund])
    async def waiting(turn: Turn) -> str:
        found.append(turn.state.count)
        turn.state.count += 1
        return await turn.call(refund)

    async with Runtime(path, [waiting], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", None)
        await until(lambda: runtime.statistics().suspended)
        during = await runtime.state("s", "desk")
        await runtime.resolve(receipt.turn_id, Happened("yes"), token=await token(runtime, receipt.turn_id))
        with anyio.fail_after(5):
            assert (await receipt.deliverable()).value == "yes"
        after = await runtime.state("s", "desk")

    assert found == [0, 0]
    assert during is None
    assert after == Desk(1)


async def test_a_turn_that_a_closing_runtime_takes_back_changes_nothing(path: Path) -> None:
    """The next runtime runs it from the state as it was."""
    hold = asyncio.Event()

    @agent("desk", state=Desk)
    async def held(turn: Turn) -> int:
        turn.state.count += 1
        if turn.input == "held" and turn.attempt == 1:
            await hold.wait()
        return turn.state.count

    async with Runtime(path, [held], settings=FAST) as runtime:
        await said(runtime, "first")
        receipt = await runtime.tell("s", "desk", "held", key="held")
        await until(lambda: runtime.statistics().running)
    between = stored(path)
    async with Runtime(path, [held], settings=FAST) as runtime:
        with anyio.fail_after(5):
            again = await runtime.ask("s", "desk", "held", key="held")

    assert [(value["count"], turn_id) for _, _, value, turn_id in between] == [(1, 1)]
    assert (again.turn_id, again.value) == (receipt.turn_id, 2)
    check_invariants(path)


async def test_a_turn_that_is_handed_over_leaves_its_state_with_the_answer_of_who_took_it(path: Path) -> None:
    """As it was when it was handed over; none where that one fails, or where it does not fit."""

    @agent("billing")
    async def billing(turn: Turn) -> str:
        if turn.input["summary"] == "broken":
            raise ValueError
        return "paid"

    @agent("triage", state=Desk)
    async def triage(turn: Turn) -> None:
        turn.state.count += 1
        if turn.input == "unfit":
            turn.state.count = "one"
        await turn.handoff("billing", reason="money", summary=turn.input, goal="it is paid")

    async with Runtime(path, [billing, triage], settings=SLOW) as runtime:
        answers, states = [], []
        for what in ("right", "broken", "unfit"):
            answers += await said(runtime, what, session_id=what, agent_id="triage")
            states.append(await runtime.state(what, "triage"))

    assert answers[0] == "paid"
    assert answers[1][0] == "ValueError"
    assert answers[2] == ("ContractViolation", "the state of triage: Expected `int`, got `str` - at `$.count`")
    assert states == [Desk(1), None, None]
    assert audit(path).violations == []


# ---------------------------------------------------------------- under kills

PROCESS = """
import asyncio, faulthandler, os, sys
from turnkeeper import Runtime, agent
from turnkeeper.kernel.records import Deliverable

HOLD, TURN = sys.argv[2], int(sys.argv[3])


@agent("desk", state=dict[str, int])
async def desk(turn):
    turn.state[turn.key] = turn.state.get("count", 0) + 1
    turn.state["count"] = turn.state.get("count", 0) + 1
    if HOLD == "in the turn" and turn.turn_id == TURN:
        await stay()
    return turn.state["count"]


async def stay():
    print("held", flush=True)
    await asyncio.Event().wait()


async def own():
    async with Runtime(sys.argv[1], [desk]) as runtime:
        apply = runtime._store.apply

        async def caught(points):
            ends = any(isinstance(one, Deliverable) and one.turn_id == TURN for point in points for one in point)
            if ends and HOLD == "before the commit":
                await stay()
            rejected = await apply(points)
            if ends and HOLD == "after the commit":
                await stay()
            return rejected

        runtime._store.apply = caught
        for number in range(10_000):
            await runtime.ask("s", "desk", None, key=str(number))
            print(number + 1, flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(20, exit=True)
    asyncio.run(own())
"""


def owner(path: Path, hold: str = "", turn_id: int = 0) -> "subprocess.Popen[str]":
    """Start a process that asks its agent again and again, and stays at one moment of one turn, if that is said."""
    script = path.with_name("owner.py")
    script.write_text(PROCESS)
    return subprocess.Popen(
        [sys.executable, script, path, hold, str(turn_id)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )


def killed(child: "subprocess.Popen[str]", word: str) -> None:
    """Kill a process once it has said a word."""
    assert child.stdout is not None
    with child:
        while child.stdout.readline().strip() not in {word, ""}:
            pass
        child.kill()
    assert child.returncode == -signal.SIGKILL


@agent("desk", state=dict[str, int])
async def counting(turn: Turn) -> int:
    """Do what the killed process's agent does."""
    turn.state[turn.key] = turn.state.get("count", 0) + 1
    turn.state["count"] = turn.state.get("count", 0) + 1
    return turn.state["count"]


async def check_counted(path: Path) -> None:
    """Check that a store is sound and its state counts the turns it has delivered; also when what is left has ended."""
    assert audit(path).violations == []
    ((delivered,),) = rows(path, "SELECT count(*) FROM deliverables")
    assert [value.get("count") for _, _, value, _ in stored(path)] == [delivered]
    async with Runtime(path, [counting], settings=FAST) as runtime:
        await until(lambda: runtime.statistics().running + runtime.statistics().queued == 0)
        state = await runtime.state("s", "desk")
    ((turns,),) = rows(path, "SELECT count(*) FROM turns")
    check_invariants(path)

    assert state == {"count": turns, **{str(number): number + 1 for number in range(turns)}}
    assert audit(path).violations == []


@pytest.mark.parametrize(("hold", "left"), [("in the turn", 2), ("before the commit", 2), ("after the commit", 3)])
async def test_a_kill_leaves_the_state_with_the_deliverable_or_neither(hold: str, left: int, path: Path) -> None:
    """In whatever moment of the third turn it comes; the next runtime runs what is left, once."""
    killed(owner(path, hold, 3), "held")

    assert rows(path, "SELECT count(*) FROM deliverables") == [(left,)]
    await check_counted(path)


@pytest.mark.parametrize("acknowledged", [1, 7, 60])
async def test_a_state_that_was_answered_survives_a_kill(acknowledged: int, path: Path) -> None:
    """Wherever the process is behind it."""
    killed(owner(path), str(acknowledged))

    assert stored(path)[0][2]["count"] >= acknowledged
    await check_counted(path)


def test_under_any_schedule_and_any_kills_each_turn_counts_once() -> None:
    """In virtual time, with commits that fail and processes that die in the middle of them."""

    async def life(world: World) -> None:
        settings = Settings(retries_max=10_000, recoveries_max=10_000, lease_s=300.0, storm_ends_max=0)

        @agent("desk", state=dict[str, int])
        async def erring(turn: Turn) -> int:
            turn.state["count"] = turn.state.get("count", 0) + 1
            await turn.step("think", asyncio.sleep, 0.1)
            if turn.attempt % 2:
                raise Once
            return turn.state["count"]

        async with world.runtime([erring], settings=settings) as runtime:
            results = [await runtime.ask("s", "desk", None, key=str(number)) for number in range(4)]
            assert [result.value for result in results] == [1, 2, 3, 4]
            assert await runtime.state("s", "desk") == {"count": 4}

    explore(life, range(40), faults=Faults(crash_rate=0.05, fault_rate=0.05, crashes_max=20))


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (Desk("three"), "ContractViolation", "the state of play: Expected `int`, got `str` - at `$.count`"),
        ({"count": None}, "ContractViolation", "the state of play: Expected `int`, got `None` - at `$.count`"),
        (None, "ContractViolation", "the state of play: Expected `object`, got `None`"),
        (object(), "ContractViolation", "the state of play: cannot be stored"),
        (Desk(2**70), "ContractViolation", "the state of play: cannot be stored"),
        (Desk(1, ["x" * 2_000]), "PayloadTooLarge", "the state of play is 20"),
    ],
    ids=["a field of another type", "no field's type", "nothing", "no value", "past 64 bits", "too large"],
)
async def test_a_state_that_does_not_fit_fails_its_turn(value: Any, error: str, words: str, path: Path) -> None:
    """It names whose state, and changes nothing; the turn is not tried again."""

    async def handler(turn: Turn) -> None:
        turn.state = Desk(7) if turn.key == "first" else value

    settings = msgspec.structs.replace(FAST, payload_bytes_max=1_000)
    await played(path, playing(handler, state=Desk), settings, key="first")
    result = await played(path, playing(handler, state=Desk), settings, key="second")

    assert (result.outcome, result.failure.type) == ("failed", error)
    assert words in result.failure.message
    assert stored(path) == [(1, 1, {"count": 7, "seen": []}, 1)]
    assert rows(path, "SELECT attempt FROM turns WHERE turn_id = 2") == [(1,)]


class Wanting(msgspec.Struct):
    name: str


UNKEPT: dict[str, dict[str, Any]] = {
    "a field without a default": {"state": Wanting},
    "a choice, which cannot be made": {"state": Desk | None},
    "a tuple, which is not empty": {"state": tuple[int, int]},
    "an object of no kind": {"state": object},
    "a type that msgspec does not know": {"state": asyncio.Event},
    "no type": {"state": "Desk"},
    "a version before the first": {"state": Desk, "state_version": 0},
    "a version that is text": {"state": Desk, "state_version": "2"},
    "a version that is a flag": {"state": Desk, "state_version": True},
    "a migration that is async": {"state": Desk, "migrate": asyncio.sleep},
    "a version of no state": {"state_version": 2},
    "a migration of no state": {"migrate": lambda _, value: value},
}


@pytest.mark.parametrize("unkept", UNKEPT)
def test_a_state_that_cannot_be_kept_is_refused_where_it_is_declared(unkept: str) -> None:
    """Not by the first turn that has one."""
    with pytest.raises(TypeError, match=r"state|migrate"):
        agent("desk", **UNKEPT[unkept])(desk.handler)
