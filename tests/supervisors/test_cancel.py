"""Cancelling: from wherever a turn stands, once, durable before it is told; children first; and nothing by accident."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from cancelling import STANDING, SUSPENDED, Gate, acting, states
from looking import check_invariants, details, kinds, rows, until
from msgspec import structs

from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.nudges import cancel_turn
from turnkeeper.actors.session import SessionAgent
from turnkeeper.kernel.edge import PolicyResolved
from turnkeeper.kernel.errors import Deadlock, ShuttingDown, StorageFailed, TurnNotFound
from turnkeeper.kernel.names import Address
from turnkeeper.testing import Fault, Faults, World, each_crash, run

# ---------------------------------------------------------------- from wherever it stands


@pytest.mark.parametrize("where", ["pure", "handler", "signal"])
async def test_what_runs_and_may_be_cut_is_cut(path: Path, where: str) -> None:
    """A pure step, the handler's own code, a wait in its run: nothing of it goes on."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", where)
        await gate.entered.wait()
        with anyio.fail_after(5):
            result = await runtime.cancel(receipt.turn_id, by="ann", reason="enough")
            told = await receipt.deliverable()

    assert (result.outcome, result.failure and result.failure.type) == ("cancelled", "Cancelled")
    assert "by ann; enough" in str(result.failure)
    assert told == result
    assert "step_succeeded" not in kinds(path)
    check_invariants(path)


@pytest.mark.parametrize("where", ["idempotent", "effectful"])
async def test_a_step_that_has_an_intent_is_waited_for(path: Path, where: str) -> None:
    """It has its result on record; no step starts behind it."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", where)
        await gate.entered.wait()
        cancelling = asyncio.create_task(runtime.cancel(receipt.turn_id))
        await until(lambda: "policy_resolved" in kinds(path))
        running = states(path)
        gate.opened.set()
        with anyio.fail_after(5):
            result = await cancelling

    assert (running, result.outcome) == (["running"], "cancelled")
    assert kinds(path)[-4:] == ["step_intended", "policy_resolved", "step_succeeded", "turn_cancelled"]
    check_invariants(path)


@pytest.mark.parametrize("where", ["signal", "doubt"])
async def test_a_suspended_turn_is_cancelled(path: Path, where: str) -> None:
    """Its waits go with it, and its handler does not run again."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", where)
        await until(lambda: states(path) == ["suspended"])
        result = await runtime.cancel(receipt.turn_id)
        counted = runtime.statistics()

    assert result.outcome == "cancelled"
    assert rows(path, "SELECT * FROM waits") == []
    assert kinds(path)[-2:] == ["turn_suspended", "turn_cancelled"]
    assert (counted.suspended, counted.queued, counted.running) == (0, 0, 0)
    check_invariants(path)


async def test_a_queued_turn_is_cancelled_and_those_before_and_behind_it_are_not(path: Path) -> None:
    """They run in their order."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        receipts = [await runtime.tell("s", "play", "pure") for _ in range(3)]
        await gate.entered.wait()
        result = await runtime.cancel(receipts[1].turn_id)
        gate.opened.set()
        with anyio.fail_after(5):
            ends = [(await receipt.deliverable()).outcome for receipt in receipts]

    assert result.outcome == "cancelled"
    assert ends == ["completed", "cancelled", "completed"]
    assert kinds(path, 2) == ["inbound_received", "turn_cancelled"]
    check_invariants(path)


async def test_a_queued_turn_whose_end_was_refused_is_read_again(path: Path) -> None:
    """What is in memory is not what is stored: it ends as it is there."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        receipts = [await runtime.tell("s", "play", "pure") for _ in range(2)]
        await gate.entered.wait()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE turns SET version = version + 1 WHERE turn_id = 2")
        with anyio.fail_after(5):
            ended = await runtime.cancel(receipts[1].turn_id)
            gate.opened.set()
            ends = [(await receipt.deliverable()).outcome for receipt in receipts]

    assert (ended.outcome, ends) == ("cancelled", ["completed", "cancelled"])


async def test_a_turn_that_waits_for_its_retry_is_cancelled(path: Path) -> None:
    """Its timer goes with it."""
    gate = Gate()
    settings = structs.replace(STANDING, retry_base_s=30.0)
    async with Runtime(path, [acting(gate)], settings=settings) as runtime:
        receipt = await runtime.tell("s", "play", "raise")
        await until(lambda: "turn_requeued" in kinds(path))
        with anyio.fail_after(5):
            result = await runtime.cancel(receipt.turn_id)
            behind = await runtime.ask("s", "play", "nothing")

    assert (result.outcome, behind.outcome) == ("cancelled", "completed")


async def test_a_turn_that_is_about_to_run_is_cancelled(path: Path) -> None:
    """At every moment of its beginning: it ends as cancelled, or had completed before."""
    gate = Gate()
    gate.opened.set()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        for turns_of_the_loop in range(30):
            receipt = await runtime.tell("s", "play", "pure")
            for _ in range(turns_of_the_loop):
                await asyncio.sleep(0)
            with anyio.fail_after(5):
                result = await runtime.cancel(receipt.turn_id)
            assert result.outcome in {"cancelled", "completed"}
            assert result == await receipt.deliverable()
    check_invariants(path)


async def test_a_handler_that_swallows_its_cancellation_loses_its_turn(path: Path) -> None:
    """After `insist_s`; the next turn runs."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", "deaf")
        await gate.entered.wait()
        with anyio.fail_after(5):
            result = await runtime.cancel(receipt.turn_id)
            behind = await runtime.ask("s", "play", "nothing")
        gate.opened.set()

    assert (result.outcome, behind.outcome) == ("cancelled", "completed")


# ---------------------------------------------------------------- once


@pytest.mark.parametrize("settings", [STANDING, SUSPENDED], ids=["standing", "suspended"])
async def test_a_thousand_who_cancel_at_once_are_told_the_same(path: Path, settings: Settings) -> None:
    """The turn ends once, as the first of them said."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=settings) as runtime:
        receipt = await runtime.tell("s", "play", "signal")
        await until(lambda: "step_intended" in kinds(path) or states(path) == ["suspended"])
        with anyio.fail_after(20):
            ends = await asyncio.gather(*(runtime.cancel(receipt.turn_id, by=f"{number}") for number in range(1_000)))

    assert len({end.body for end in ends}) == 1
    assert kinds(path).count("turn_cancelled") == 1
    assert len(details(path, "policy_resolved")) <= 1


@pytest.mark.parametrize("way", ["returns", "raises"])
async def test_a_turn_whose_handler_ends_by_itself_once_it_was_cancelled_is_cancelled(path: Path, way: str) -> None:
    """What is on record is what would come of it after a crash."""
    gate = Gate()

    @tool(effect=Effect.EFFECTFUL)
    async def act() -> str:
        return await gate.stay()

    @agent("play", tools=[act])
    async def play(turn: Turn) -> str:
        said = await turn.call(act)
        if way == "raises":
            raise ValueError(said)
        return said

    async with Runtime(path, [play], settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await gate.entered.wait()
        cancelling = asyncio.create_task(runtime.cancel(receipt.turn_id))
        await until(lambda: "policy_resolved" in kinds(path))
        gate.opened.set()
        with anyio.fail_after(5):
            result = await cancelling

    assert result.outcome == "cancelled"
    assert kinds(path)[-2:] == ["step_succeeded", "turn_cancelled"]
    check_invariants(path)


@pytest.mark.parametrize("what", ["turn", "session", "parent"])
async def test_a_step_cannot_wait_for_the_end_of_a_turn_that_waits_for_it(path: Path, what: str) -> None:
    """It is told so at once, and nothing is cancelled; behind the step it can be."""
    runtimes: list[Runtime] = []
    refused: list[str] = []

    @tool(effect=Effect.EFFECTFUL)
    async def hang_up(turn_id: int) -> None:
        try:
            await (runtimes[0].cancel_session("s") if what == "session" else runtimes[0].cancel(turn_id))
        except Deadlock as error:
            refused.append(str(error))

    @agent("play", tools=[hang_up])
    async def play(turn: Turn) -> str:
        turn_id = turn.input or turn.turn_id
        await turn.call(hang_up, turn_id)
        return (await runtimes[0].cancel(turn_id)).outcome

    @agent("above")
    async def above(turn: Turn) -> str:
        return await turn.ask("play", turn.turn_id)

    async with Runtime(path, [play, above], settings=STANDING) as runtime:
        runtimes.append(runtime)
        with anyio.fail_after(5):
            result = await runtime.ask("s", "above" if what == "parent" else "play", 0)

    numbers = "2 -> turn 1" if what == "parent" else "1 -> turn 1"
    assert result.outcome == "cancelled"
    assert refused == [f"would wait for itself: step hang_up[#0] of turn {numbers}"]
    check_invariants(path)


async def test_a_turn_that_has_ended_stays_as_it_is_and_an_unknown_one_is_no_turn(path: Path) -> None:
    """Nothing is written about either."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        completed = await runtime.ask("s", "play", "nothing")
        before = kinds(path)
        again = await runtime.cancel(completed.turn_id)
        with pytest.raises(TurnNotFound):
            await runtime.cancel(77)

    assert again == completed
    assert kinds(path) == before
    with pytest.raises(ShuttingDown):
        await runtime.cancel(completed.turn_id)


# ---------------------------------------------------------------- durable


OWNER = """
import asyncio, sys
from turnkeeper import Runtime, Settings, agent

@agent("play")
async def play(turn):
    await turn.signal("go")

async def main():
    async with Runtime(sys.argv[1], [play], settings=Settings(suspend_s=float(sys.argv[2]))) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await asyncio.sleep(0.1)
        await runtime.cancel(receipt.turn_id)
        print("cancelled", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("suspend_s", ["60", "0.001"], ids=["standing", "suspended"])
def test_what_was_told_cancelled_is_cancelled_after_a_kill_right_behind_it(path: Path, suspend_s: str) -> None:
    """It was on the disk before."""
    with subprocess.Popen([sys.executable, "-c", OWNER, path, suspend_s], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "cancelled\n"
        os.kill(owner.pid, signal.SIGKILL)

    assert states(path) == ["cancelled"]
    check_invariants(path)


def family(world: World) -> list[Any]:
    """A turn that works, one that waits for two of those, and one that waits for that."""

    @tool(effect=Effect.IDEMPOTENT)
    async def work() -> None:
        await asyncio.sleep(0.2)

    @agent("leaf")
    async def leaf(turn: Turn) -> None:
        if turn.input:
            await turn.call(work)
        await turn.signal("never")

    @agent("middle")
    async def middle(turn: Turn) -> Any:
        return await turn.gather(turn.ask("leaf", 0, session_id="t"), turn.ask("leaf", 1, session_id="u"))

    @agent("top")
    async def top(turn: Turn) -> Any:
        return await turn.ask("middle")

    return [leaf, middle, top]


def cancelling(wait_s: float, suspend_s: float, ends: list[list[str]]) -> Callable[[World], Any]:
    """Cancel the top of a family, and again until it is told so."""

    async def life(world: World) -> None:
        settings = Settings(suspend_s=suspend_s, shutdown_s=1.0, recoveries_max=1_000)
        async with world.runtime(family(world), settings=settings) as runtime:
            while True:
                try:
                    receipt = await runtime.tell("s", "top", None, key="k")
                    await asyncio.sleep(wait_s)
                    result = await runtime.cancel(receipt.turn_id, by="ann")
                except StorageFailed:
                    await asyncio.sleep(1.0)
                else:
                    break
            assert result.outcome == "cancelled"
            await asyncio.sleep(1.0)
            turns = sorted(world.disk.turns.items())  # type: ignore[attr-defined]
            ends.append([turn.state for _, turn in turns])

    return life


@pytest.mark.parametrize("suspend_s", [0.01, 60.0], ids=["suspended", "standing"])
@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.5])
def test_a_tree_is_cancelled_under_a_kill_at_every_point(wait_s: float, suspend_s: float) -> None:
    """A crash between the request and the end changes nothing: every turn of it ends, and as cancelled."""
    ends: list[list[str]] = []
    outcomes = each_crash(cancelling(wait_s, suspend_s, ends))

    assert len(outcomes) > 15
    assert {outcome.live for outcome in outcomes} == {0}
    assert {state for states_ in ends for state in states_} == {"cancelled"}


def test_a_wish_that_was_recorded_before_a_crash_is_kept_without_being_said_again() -> None:
    """Its children need not have ended: the turn stands on them, and nothing else would wake it for a day."""
    kept: list[int] = []

    async def life(world: World) -> None:
        async with world.runtime(family(world), settings=Settings(suspend_s=0.01, recoveries_max=1_000)) as runtime:
            receipt = await runtime.tell("s", "top", None, key="k")
            await asyncio.sleep(0.5)
            if world.life == 1:
                await runtime.cancel(receipt.turn_id, by="ann")
            await asyncio.sleep(5.0)
            disk = world.disk  # type: ignore[attr-defined]
            asked = [edge for _, edge in disk.edges[receipt.turn_id].values() if edge.kind == "policy_resolved"]
            if asked and world.life == 2:
                kept.append(receipt.turn_id)
                assert {turn.state for turn in disk.turns.values()} == {"cancelled"}

    each_crash(life)

    assert kept


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.FULL, Fault.DELAY, Fault.BUG_BEFORE, Fault.BUG_AFTER])
def test_a_tree_is_cancelled_on_a_disk_that_fails_at_any_commit(fault: Fault) -> None:
    """Who was told that it could not be stored asks again."""
    for commit in range(2, 22):
        ends: list[list[str]] = []
        run(cancelling(0.05, 0.01, ends), seed=commit, faults=Faults(at={commit: fault}))
        assert set(ends[0]) == {"cancelled"}


@pytest.mark.parametrize("suspend_s", [0.01, 60.0], ids=["suspended", "standing"])
def test_children_are_cancelled_first(suspend_s: float) -> None:
    """In the order of the log, from the leaves up."""
    order: list[int] = []

    async def life(world: World) -> None:
        await cancelling(0.05, suspend_s, [])(world)
        numbered = (edge for edges in world.disk.edges.values() for edge in edges.values())  # type: ignore[attr-defined]
        ended = sorted((edge.number, edge.edge.turn_id) for edge in numbered if edge.edge.kind == "turn_cancelled")
        order.extend(turn_id for _, turn_id in ended)

    run(life)

    assert order[-2:] == [2, 1]
    assert sorted(order[:-2]) == [3, 4]


async def test_a_turn_whose_run_is_stopped_while_it_is_being_cancelled_is_cancelled(path: Path) -> None:
    """By its agent being stopped: it goes back to a queue that starts nothing, and its end does not wait for that."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", "idempotent")
        await gate.entered.wait()
        cancelling = asyncio.create_task(runtime.cancel(receipt.turn_id))
        await until(lambda: "policy_resolved" in kinds(path))
        await runtime.say("agents/play", "stop")
        with anyio.fail_after(5):
            result = await cancelling

    assert (result.outcome, states(path)) == ("cancelled", ["cancelled"])
    check_invariants(path)


async def test_a_wish_outlasts_another_one_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fails to cancel a turn takes back what they said, and nothing else."""

    async def failing(*_: Any) -> None:
        raise StorageFailed("", "as planned")

    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        await runtime.tell("s", "play", "handler")
        receipt = await runtime.tell("s", "play", "handler")
        async with runtime._open_node().hold(Address("", "s", "play")) as held:
            turn = held.live(receipt.turn_id)
        assert turn is not None
        monkeypatch.setattr(SessionAgent, "_cancel_waiting", failing)
        for earlier in (None, PolicyResolved("turn", "", "cancel", by="ann")):
            turn.request = earlier
            with pytest.raises(StorageFailed):
                await runtime.cancel(receipt.turn_id, by="bob")
            assert turn.request is earlier


async def test_a_wish_that_is_recorded_is_kept_though_a_child_cannot_be_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn is ended without being asked for again."""
    failures = [StorageFailed("", "as planned")]

    async def failing(*said: Any) -> None:
        if failures:
            raise failures.pop()
        await cancel_turn(*said)

    @agent("asks")
    async def asks(turn: Turn) -> Any:
        return await turn.ask("play", "signal")

    async with Runtime(path, [asks, acting(Gate())], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "asks", None)
        await until(lambda: states(path) == ["suspended", "suspended"])
        monkeypatch.setattr("turnkeeper.actors.standing.cancel_turn", failing)
        with pytest.raises(StorageFailed):
            await runtime.cancel(receipt.turn_id)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert (result.outcome, states(path)) == ("cancelled", ["cancelled", "cancelled"])
    check_invariants(path)
