"""State from elsewhere: of another version, read by others, pruned, backed up, damaged."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from desks import SLOW, Desk, desk, said, stored
from looking import FAST, FakeClock, kinds, rows, until

from turnkeeper import Agent, Runtime, Turn, agent
from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.errors import ContractViolation, InvalidName, ShuttingDown

# ---------------------------------------------------------------- versions


class Counts(msgspec.Struct):
    """The second version: counts by word, where the first had the words."""

    counts: dict[str, int] = {}


def forward(version: int, value: Any) -> Any:
    """Bring the first version forward."""
    assert version == 1
    return {"counts": {word: value["seen"].count(word) for word in value["seen"]}}


def second(migrate: Any = forward, **declared: Any) -> Agent:
    async def handler(turn: Turn) -> int:
        if turn.input == "rest":
            return 0
        turn.state.counts[turn.input] = turn.state.counts.get(turn.input, 0) + 1
        return turn.state.counts[turn.input]

    return agent("desk", state=Counts, state_version=2, migrate=migrate, **declared)(handler)


@pytest.fixture
async def older(path: Path) -> Path:
    """A store with a state of the first version."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        await said(runtime, "a", "b", "a")
    return path


async def test_a_state_of_another_version_is_brought_forward(older: Path) -> None:
    """In memory for those who read it, in the file with the first turn that asks for it."""
    async with Runtime(older, [second()], settings=FAST) as runtime:
        read = await runtime.state("s", "desk")
        assert await said(runtime, "rest") == [0]
        untouched = stored(older)
        assert await said(runtime, "a") == [3]

    assert read == Counts({"a": 2, "b": 1})
    assert untouched == [(1, 1, {"count": 3, "seen": ["a", "b", "a"]}, 3)]
    assert stored(older) == [(1, 2, {"counts": {"a": 3, "b": 1}}, 5)]
    assert audit(older).violations == []


async def test_a_migration_may_return_the_type_itself_or_go_back(older: Path) -> None:
    """It is told the version of what it is given, a later one too: an older release can be given one."""

    def either(version: int, value: Any) -> Any:
        return Counts({"a": len(value["seen"])}) if version == 1 else Desk(sum(value["counts"].values()))

    back = agent("desk", state=Desk, migrate=either)(desk.handler)
    async with Runtime(older, [second(either)], settings=FAST) as runtime:
        assert await said(runtime, "a") == [4]
    async with Runtime(older, [back], settings=FAST) as runtime:
        assert await runtime.state("s", "desk") == Desk(4)
        assert await said(runtime, "b") == [5]

    assert stored(older)[0][1] == 1


async def test_a_version_is_stored_also_where_nothing_else_is_new(older: Path) -> None:
    """So that it is brought forward once."""

    async def handler(turn: Turn) -> int:
        return turn.state.count

    same = agent("desk", state=Desk, state_version=2, migrate=lambda _, value: value)(handler)
    async with Runtime(older, [same], settings=FAST) as runtime:
        assert await said(runtime, "x") == [3]

    assert [(version, turn_id) for _, version, _, turn_id in stored(older)] == [(2, 4)]


def upset(version: int, value: Any) -> Any:
    raise LookupError(version)


@pytest.mark.parametrize(
    ("migrate", "error", "words"),
    [
        (None, "ContractViolation", "was stored under version 1, the agent declares 2"),
        (lambda _, value: {"counts": value["seen"]}, "ContractViolation", "the state of desk: Expected `object`"),
        (lambda _, value: object(), "ContractViolation", "the state of desk: cannot be stored"),
        (upset, "LookupError", "1"),
    ],
    ids=["none", "what does not fit", "what cannot be stored", "one that raises"],
)
async def test_a_state_that_is_not_brought_forward_fails_who_asks_for_it(
    migrate: Any, error: str, words: str, older: Path
) -> None:
    """A turn, or a reader; it stands as it was, for a better release."""
    before = stored(older)
    async with Runtime(older, [second(migrate)], settings=SLOW) as runtime:
        ((type_, message),) = await said(runtime, "a")
        with pytest.raises(ContractViolation, match=words) as told:
            await runtime.state("s", "desk")
        assert told.value.what == "the state of desk"

    assert type_ == error
    assert words in message
    assert stored(older) == before


async def test_a_migration_that_would_end_the_process_ends_no_reader(older: Path) -> None:
    """Who reads a state is told what its `migrate` raised, whatever that is."""

    def leave(version: int, value: Any) -> Any:
        raise SystemExit(version)

    async with Runtime(older, [second(leave)], settings=SLOW) as runtime:
        with pytest.raises(ContractViolation, match="the state of desk: its migrate raised SystemExit: 1"):
            await runtime.state("s", "desk")


async def test_a_turn_finishes_with_the_state_of_the_handler_it_started_under(path: Path) -> None:
    """Both versions of the handler are given; each declares its own."""

    @agent("desk", version="1", state=Desk)
    async def first(turn: Turn) -> int:
        await turn.step("begin", list)
        if turn.attempt == 1:
            await asyncio.Event().wait()
        return await desk.handler(turn)

    async with Runtime(path, [first], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", "a", key="a")
        await until(lambda: "step_succeeded" in kinds(path))
    async with Runtime(path, [first, second(version="2")], settings=FAST) as runtime:
        with anyio.fail_after(5):
            finished = await runtime.ask("s", "desk", "a", key="a")
        between = stored(path)
        assert await said(runtime, "a") == [2]

    assert (finished.turn_id, finished.value) == (receipt.turn_id, 1)
    assert between == [(1, 1, {"count": 1, "seen": ["a"]}, 1)]
    assert [(version, value) for _, version, value, _ in stored(path)] == [(2, {"counts": {"a": 2}})]


# ---------------------------------------------------------------- reading it


async def test_a_reader_gets_the_last_committed_state_while_a_turn_runs(path: Path) -> None:
    """Without a message and without waiting: what the run has done to its own is nobody else's."""
    hold, begun = asyncio.Event(), asyncio.Event()

    @agent("desk", state=Desk)
    async def held(turn: Turn) -> None:
        turn.state.count += 1
        if turn.input == "held":
            begun.set()
            await hold.wait()

    async with Runtime(path, [held], settings=FAST) as runtime:
        await said(runtime, "first")
        receipt = await runtime.tell("s", "desk", "held")
        with anyio.fail_after(5):
            await begun.wait()
            during = await runtime.state("s", "desk")
            during.count += 100
            accepted = runtime.statistics().accepted
            assert await runtime.state("s", "desk") == Desk(1)
            hold.set()
            await receipt.deliverable()
        after = await runtime.state("s", "desk")

    assert (during.count, accepted, after) == (101, 2, Desk(2))


async def test_a_state_can_be_read_without_its_agent(older: Path) -> None:
    """As plain data: the agent was not given, or declares no state any more."""
    plain = {"count": 3, "seen": ["a", "b", "a"]}
    for given in ([], [agent("desk")(desk.handler)]):
        async with Runtime(older, given, settings=FAST) as runtime:
            assert await runtime.state("s", "desk") == plain


async def test_of_whom_nothing_is_remembered_there_is_none(older: Path) -> None:
    """No session, no agent, no turn yet; what is no address is refused, and so is a closed runtime."""
    runtime = Runtime(older, [desk], settings=FAST)
    async with runtime:
        assert await runtime.state("other", "desk") is None
        assert await runtime.state("s", "nobody") is None
        assert await runtime.state("s", "desk", tenant="acme") is None
        with pytest.raises(InvalidName):
            await runtime.state("", "desk")
    with pytest.raises(ShuttingDown):
        await runtime.state("s", "desk")


# ---------------------------------------------------------------- keeping, and damage


async def test_a_state_outlives_its_turns(path: Path, clock: FakeClock) -> None:
    """Pruning takes the turn that left it; the next one goes on from it."""
    async with Runtime(path, [desk], settings=FAST, clock=clock) as runtime:
        await said(runtime, "a")
        await said(runtime, "x", session_id="other")
        clock.now += 10 * FAST.idempotency_s
        assert await runtime.prune(older_than_s=0.0) == 1
        assert audit(path).violations == []
        assert await said(runtime, "b") == [2]

    assert audit(path).violations == []


CHANGES = {
    "a value": ("UPDATE states SET body = x'82a5636f756e7409a47365656e90'", {"digests"}),
    "a version": ("UPDATE states SET version = 2", {"digests"}),
    "its turn": ("UPDATE states SET turn_id = turn_id - 1", {"digests"}),
    "its time": ("UPDATE states SET at = at + 1", {"digests"}),
    "bytes that mean nothing": ("UPDATE states SET body = x'c1'", {"digests", "readable state"}),
    "nothing": ("UPDATE states SET body = x''", {"digests", "readable state"}),
    "whose it is": ("UPDATE states SET actor_id = 99", {"no orphans", "sound file"}),
    "a turn that left none": ("UPDATE states SET turn_id = 4", {"digests", "state = a completed turn's"}),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_an_audit_tells_a_state_that_was_changed(change: str, older: Path) -> None:
    """By its digest, by what it is, or by whose it says it is."""
    async with Runtime(older, [desk], settings=SLOW) as runtime:
        await said(runtime, "broken")
    sql, rules = CHANGES[change]
    with closing(sqlite3.connect(older)) as connection:
        connection.execute(sql)
        connection.commit()

    assert {found.rule for found in audit(older).violations} == rules


async def test_a_damaged_state_fails_who_asks_for_it_and_stays(older: Path) -> None:
    """Nobody goes on as if there had been none."""
    with closing(sqlite3.connect(older)) as connection:
        connection.execute("UPDATE states SET body = x'c1'")
        connection.commit()
    async with Runtime(older, [desk], settings=SLOW) as runtime:
        ((type_, message),) = await said(runtime, "a")
        with pytest.raises(ContractViolation, match="the state of desk"):
            await runtime.state("s", "desk")

    assert type_ == "ContractViolation"
    assert "the state of desk" in message
    assert rows(older, "SELECT body FROM states") == [(b"\xc1",)]
