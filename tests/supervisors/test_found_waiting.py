"""What enemies found in waiting and arriving, each as the program that showed it."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import rows, until
from msgspec import structs

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.edge import EdgeKind
from turnkeeper.kernel.errors import StorageFailed

pytestmark = pytest.mark.anyio

QUICK = Settings(synchronous="OFF", suspend_s=0.01, shutdown_s=0.2, lag_s=0, idempotency_s=0.05)


@agent("sleeper")
async def sleeper(turn: Turn) -> Any:
    await turn.sleep(0.5)
    return turn.input


async def test_an_interrupt_that_is_refused_leaves_the_suspended_turn_and_every_other_deadline(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn took no answers any more, and the alarm stood with it."""
    full = False
    real = SqliteStore.apply

    async def apply(self: SqliteStore, points: Any) -> Any:
        if full:
            raise StorageFailed(self.path, "disk full")
        return await real(self, points)

    monkeypatch.setattr(SqliteStore, "apply", apply)
    async with Runtime(path, [sleeper], settings=QUICK) as runtime:
        asked = asyncio.create_task(runtime.ask("s", "sleeper", "first"))  # so its actor stays in memory
        await until(lambda: runtime.statistics().suspended == 1)
        full = True
        with pytest.raises(StorageFailed):
            await runtime.tell("s", "sleeper", "refused", arrival="interrupt")
        full = False
        other = await runtime.ask("another session", "sleeper", "second")

        assert (await asked).value == "first"
        assert other.value == "second"
        assert runtime.statistics().suspended == 0


@pytest.mark.parametrize("first", ["signal", "sleep"])
async def test_of_several_waits_one_that_is_answered_as_the_turn_is_to_be_suspended_wakes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Whichever the handler has asked for first: an answer that is being written finds it still there."""
    real, settings = SqliteStore.apply, structs.replace(QUICK, suspend_s=0.2)

    async def slowly(self: SqliteStore, points: Any) -> Any:
        if EdgeKind.STEP_SUCCEEDED in [getattr(record, "kind", None) for point in points for record in point]:
            await asyncio.sleep(2 * settings.suspend_s)  # the moment to suspend the turn comes meanwhile
        return await real(self, points)

    @agent("two")
    async def two(turn: Turn) -> Any:
        waits = {"sleep": lambda: turn.sleep(60.0), "signal": lambda: turn.signal("go")}
        asked = {name: asyncio.ensure_future(waits[name]()) for name in (first, *(waits.keys() - {first}))}
        said = await asked["signal"]
        asked["sleep"].cancel()
        return said

    monkeypatch.setattr(SqliteStore, "apply", slowly)
    async with Runtime(path, [two], settings=settings) as runtime:
        receipt = await runtime.tell("s", "two", None)
        await until(lambda: rows(path, "SELECT count(*) FROM edges WHERE kind = 'step_intended'") == [(2,)])
        await runtime.signal("s", "two", "go", "now")
        with anyio.fail_after(5):
            assert (await receipt.deliverable()).value == "now"


async def test_a_turn_runs_until_its_suspension_is_committed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits until nothing runs finds in the store what stands then."""
    real = SqliteStore.apply

    async def slowly(self: SqliteStore, points: Any) -> Any:
        await asyncio.sleep(0.05)
        return await real(self, points)

    async with Runtime(path, [sleeper], settings=QUICK) as runtime:
        await runtime.tell("s", "sleeper", "first")
        monkeypatch.setattr(SqliteStore, "apply", slowly)
        await until(lambda: runtime.statistics().running == 0)

        assert rows(path, "SELECT state FROM turns") == [("suspended",)]
        assert runtime.statistics().suspended == 1


async def test_a_message_that_is_refused_because_its_old_receipt_was_pruned_leaves_no_gap(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its key and the write a prune commits; the turn's own steps were written on top of that."""
    real, once = SqliteStore.receipt, []

    @agent("worker")
    async def worker(turn: Turn) -> Any:
        for _ in range(40 if turn.input == "long" else 0):
            await turn.step("work", asyncio.sleep, 0.003)
        return turn.input

    async with Runtime(path, [worker], settings=QUICK) as runtime:

        async def receipt(self: SqliteStore, actor_id: int, key: str) -> Any:
            found = await real(self, actor_id, key)
            if key == "k" and once:
                once.pop()
                await runtime.prune(older_than_s=0.0)
            return found

        monkeypatch.setattr(SqliteStore, "receipt", receipt)
        await runtime.ask("s", "worker", "old", key="k")
        await until(lambda: runtime._clock.time() > rows(path, "SELECT max(expires_at) FROM receipts")[0][0])
        told = await runtime.tell("s", "worker", "long")
        once.append(1)
        again = await runtime.tell("s", "worker", "new", key="k", arrival="interrupt")
        await told.deliverable()
        assert (await again.deliverable()).value == "new"

    assert list(audit(path).violations) == []


@pytest.mark.parametrize("from_step", [0, 1])
async def test_a_fork_begins_with_all_messages_of_its_source(path: Path, from_step: int) -> None:
    """Also with those that were coalesced into it."""
    gate = asyncio.Event()

    @agent("reader", arrival="coalesce")
    async def reader(turn: Turn) -> Any:
        if turn.input == "first":
            await gate.wait()
        counted = await turn.step("count", len, turn.messages)
        return [counted, turn.messages]

    async with Runtime(path, [reader], settings=QUICK) as runtime:
        await runtime.tell("s", "reader", "first")
        await runtime.tell("s", "reader", "a")
        joined = await runtime.tell("s", "reader", "b")
        gate.set()
        assert (await joined.deliverable()).value == [2, ["a", "b"]]
        fork = await runtime.fork(joined.turn_id, from_step=from_step)

        assert (await fork.deliverable()).value == [2, ["a", "b"]]
        said = [one.content for one in (await runtime.checkpoint(fork.turn_id)).messages if one.role == "user"]
        assert said == ["a", "b"]


async def test_a_child_is_not_pruned_before_its_parent_was_told(path: Path) -> None:
    """The parent had no runtime when it ended; its answer is the child's deliverable."""

    @agent("kid")
    async def kid(turn: Turn) -> Any:
        return await turn.signal("go")

    @agent("mum")
    async def mum(turn: Turn) -> Any:
        return await turn.ask("kid", None)

    async with Runtime(path, [kid, mum], settings=QUICK) as runtime:
        asked = await runtime.tell("s", "mum", None, key="k")
        await until(lambda: runtime.statistics().suspended == 2)
    async with Runtime(path, [kid], settings=QUICK) as runtime:
        await runtime.signal("s", "kid", "go", "answer")
        await until(lambda: rows(path, "SELECT count(*) FROM deliverables")[0][0] == 1)
        await runtime.tell("z", "kid", None)
        await asyncio.sleep(QUICK.idempotency_s)  # its key is over
        assert await runtime.prune(older_than_s=0.0) == 0
    async with Runtime(path, [kid, mum], settings=QUICK) as runtime:
        await until(lambda: bool(rows(path, "SELECT 1 FROM deliverables WHERE turn_id = ?", asked.turn_id)))
        await runtime.cancel_session("z")
        found = await runtime.receipt("s", "mum", "k")

        assert found is None or (await found.deliverable()).value == "answer"
