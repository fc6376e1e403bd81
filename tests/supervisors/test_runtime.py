"""The runtime from outside: what `tell`, `ask` and a receipt promise, and what closing does to them."""

import asyncio
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from looking import dump, rows, until

from turnkeeper import Agent, Receipt, Result, Retry, Runtime, Settings, Turn, agent
from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import (
    ContractViolation,
    IdempotencyConflict,
    InvalidName,
    MailboxFull,
    PayloadTooLarge,
    StorageFailed,
    TurnUnsuccessful,
    UnknownAgent,
)
from turnkeeper.supervisors import agents
from turnkeeper.supervisors.reception import Reception

FAST = Settings(synchronous="OFF", retries_max=0, shutdown_s=0.05)


def elsewhere(path: Path, sql: str) -> str:
    """Read the store in another process."""
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall())"
    return subprocess.run([sys.executable, "-c", code, path, sql], capture_output=True, text=True, check=True).stdout


class Stage:
    """An agent `play` that notes its starts and ends, and holds every turn until `gate` is set."""

    def __init__(self, *, held: bool = False) -> None:
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()
        self.started: list[Turn] = []
        self.ended: list[Turn] = []
        self.running = self.running_most = 0

        @agent("play")
        async def play(turn: Turn) -> dict:
            self.started.append(turn)
            self.running += 1
            self.running_most = max(self.running, self.running_most)
            try:
                await self.gate.wait()
                await checkpoint()
            finally:
                self.running -= 1
            self.ended.append(turn)
            return {"echo": turn.input}

        self.play: Agent = play

    def inputs(self) -> list:
        return [turn.input for turn in self.started]


class Hold:
    """Stands between the writer and the store: commits wait for `gate`."""

    def __init__(self, runtime: Runtime) -> None:
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self._apply = runtime._store.apply
        runtime._store.apply = self.apply  # type: ignore[method-assign]

    async def apply(self, points: list) -> object:
        self.asked.set()
        await self.gate.wait()
        return await self._apply(points)


# ---------------------------------------------------------------- acknowledged after the commit


async def test_what_tell_acknowledged_is_seen_by_another_process(path: Path) -> None:
    """Receipt, turn, inbound and lease stand together (10.8: separate transactions lost a message for good)."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "play", {"n": 1}, key="k")
        found = elsewhere(path, "SELECT receipts.key, turns.state, boot_id FROM receipts JOIN turns USING (turn_id)")
        kinds = elsewhere(path, "SELECT kind FROM edges ORDER BY edge_id")

        assert found.strip() == "[('k', 'running', 1)]"
        assert kinds.strip() == "[('inbound_received',), ('lease_acquired',)]"
        assert (receipt.key, receipt.turn_id, receipt.duplicate) == ("k", 1, False)


async def test_tell_waits_for_the_commit_and_the_handler_too(path: Path) -> None:
    """Before the commit nothing is acknowledged, nothing is stored and nothing runs."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        hold = Hold(runtime)
        telling = asyncio.create_task(runtime.tell("s", "play", 1))
        await hold.asked.wait()
        for _ in range(20):
            await checkpoint()

        assert not telling.done()
        assert not stage.started
        assert rows(path, "SELECT count(*) FROM receipts") == [(0,)]

        hold.gate.set()
        await (await telling).deliverable()

        assert rows(path, "SELECT count(*) FROM receipts") == [(1,)]


async def test_a_deliverable_is_published_after_its_commit(path: Path) -> None:
    """Terminal state, deliverable and receipt stand in one commit before anyone has the result (10.4)."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "play", 1, key="k")
        waiting = asyncio.create_task(receipt.deliverable())
        await until(lambda: stage.started)
        hold = Hold(runtime)
        stage.gate.set()
        await hold.asked.wait()
        for _ in range(20):
            await checkpoint()

        assert not waiting.done()
        assert rows(path, "SELECT state FROM turns") == [("running",)]

        hold.gate.set()
        result = await waiting
        state = "SELECT r.state, t.state, d.body FROM receipt_states r JOIN turns t USING (turn_id)"
        assert rows(path, f"{state} JOIN deliverables d USING (turn_id)") == [("completed", "completed", result.body)]


async def test_ask_answers_with_the_handlers_value(path: Path) -> None:
    """`ask` is `tell` and `deliverable`; the value is what the handler returned."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        result = await runtime.ask("s", "play", {"n": 1, "x": b"x"}, key="k")
        receipt = await runtime.receipt("s", "play", "k")

        assert result.value == {"echo": {"n": 1, "x": b"x"}}
        assert (result.outcome, result.failure) == ("completed", None)
        assert receipt is not None
        assert await receipt.deliverable() == result
        assert await runtime.receipt("s", "play", "other") is None
        assert await runtime.receipt("other", "play", "k") is None


async def test_a_turn_that_failed_has_a_deliverable_too(path: Path) -> None:
    """A failed turn delivers its failure; asking for its value raises it."""

    @agent("play")
    async def play(turn: Turn) -> None:
        raise LookupError("no such order")

    async with Runtime(path, [play], settings=FAST) as runtime:
        result = await runtime.ask("s", "play", 1)

        assert (result.outcome, result.failure.type, result.failure.message) == (
            "failed",
            "LookupError",
            "no such order",
        )
        with pytest.raises(TurnUnsuccessful, match="LookupError: no such order"):
            _ = result.value


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("an error that cannot say what it is")


@pytest.mark.parametrize(
    "error", [ValueError("name \udcff"), ValueError("x" * 5000), Mute()], ids=["text", "size", "str"]
)
@pytest.mark.parametrize("retries_max", [0, 1])
async def test_an_error_that_cannot_be_stored_still_ends_its_turn(
    path: Path, error: Exception, retries_max: int
) -> None:
    """Every live turn ends, whatever its handler raises."""

    @agent("play", retry=Retry(retries_max=retries_max))
    async def play(turn: Turn) -> None:
        raise error

    settings = Settings(synchronous="OFF", retry_base_s=0.001, shutdown_s=0.05, payload_bytes_max=4096)
    async with Runtime(path, [play], settings=settings) as runtime:
        with anyio.fail_after(2):
            result = await runtime.ask("s", "play", 1)

        assert result.outcome == "failed"


async def test_a_value_that_cannot_be_stored_fails_its_turn(path: Path) -> None:
    """A handler's value is checked when it returns; the failure names the agent."""

    @agent("play")
    async def play(turn: Turn) -> object:
        return object() if turn.input == "type" else "x" * 5000

    async with Runtime(path, [play], settings=Settings(synchronous="OFF", payload_bytes_max=4096)) as runtime:
        unstorable, large = await runtime.ask("s", "play", "type"), await runtime.ask("s", "play", "size")

        assert (unstorable.failure.type, large.failure.type) == ("ContractViolation", "PayloadTooLarge")
        assert "deliverable of play" in unstorable.failure.message


# ---------------------------------------------------------------- one key, one turn


async def burst(runtime: Runtime, key: str | None = "k") -> list[Result]:
    return await asyncio.gather(*(runtime.ask("s", "play", {"n": 1}, key=key) for _ in range(100)))


async def test_a_hundred_deliveries_of_one_key_are_one_turn(path: Path) -> None:
    """One turn, a hundred answers equal byte for byte; later bursts are answered, in this process or the next."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        asking = asyncio.create_task(burst(runtime))
        await until(lambda: runtime.statistics().duplicates == 99)

        assert rows(path, "SELECT duplicate_count FROM receipts") == [(99,)]

        stage.gate.set()
        results = await asking
        results += await burst(runtime)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        results += await burst(runtime)

        assert len(stage.started) == 1
        assert {(result.turn_id, result.body) for result in results} == {(1, results[0].body)}
        assert rows(path, "SELECT duplicate_count FROM receipts") == [(299,)]
        assert rows(path, "SELECT max(ordinal) + 1, count(*) FROM edges") == [(302, 302)]


async def test_a_duplicate_says_so(path: Path) -> None:
    """The receipt of a duplicate is the earlier one, marked."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        first = await runtime.tell("s", "play", 1, key="k")
        live = await runtime.tell("s", "play", 1, key="k")
        stage.gate.set()
        await live.deliverable()
        terminal = await runtime.tell("s", "play", 1, key="k")

        assert [r.duplicate for r in (first, live, terminal)] == [False, True, True]
        assert first.turn_id == live.turn_id == terminal.turn_id


@pytest.mark.parametrize("live", [True, False], ids=["live", "terminal"])
async def test_a_key_with_another_payload_is_refused_and_nothing_is_written(path: Path, live: bool) -> None:
    """A conflict changes no row, whether the key's turn is live or over."""
    stage = Stage(held=live)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "play", {"n": 1}, key="k")
        if not live:
            await receipt.deliverable()
        before = dump(path)
        with pytest.raises(IdempotencyConflict) as caught:
            await runtime.tell("s", "play", {"n": 2}, key="k")

        assert (caught.value.key, caught.value.turn_id) == ("k", receipt.turn_id)
        assert dump(path) == before
        assert await runtime.tell("s", "play", {"n": 3}, key="other")


@pytest.mark.parametrize("live", [True, False], ids=["live", "terminal"])
async def test_a_key_past_its_time_to_live_opens_a_new_turn(path: Path, clock, live: bool) -> None:
    """A key answers for its receipt for `idempotency_s` from first seen; duplicates do not prolong it (10.1)."""
    stage = Stage(held=live)
    settings = Settings(synchronous="OFF", idempotency_s=60, shutdown_s=0.05)
    async with Runtime(path, [stage.play], settings=settings, clock=clock) as runtime:
        first = await runtime.tell("s", "play", 1, key="k")
        if not live:
            await first.deliverable()
        clock.now += 59
        again = await runtime.tell("s", "play", 1, key="k")
        clock.now += 1
        renewed = await asyncio.gather(*(runtime.tell("s", "play", 2, key="k") for _ in range(20)))
        stage.gate.set()
        await renewed[0].deliverable()

        assert (again.turn_id, again.duplicate) == (first.turn_id, True)
        assert {receipt.turn_id for receipt in renewed} == {renewed[0].turn_id}
        assert sorted(receipt.duplicate for receipt in renewed) == [False] + [True] * 19
        assert stage.inputs() == [1, 2]


async def test_equal_content_is_never_a_duplicate(path: Path) -> None:
    """Only a key deduplicates (10.9: two users saying "hi" within 30 minutes became one message)."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        keys = (None, None, "a", "b")
        results = await asyncio.gather(*(runtime.ask("s", "play", "hi", key=key) for key in keys))

        assert len({result.turn_id for result in results}) == 4
        assert len(stage.started) == 4
        assert runtime.statistics().duplicates == 0


async def test_a_duplicate_of_an_ended_turn_creates_no_work(path: Path) -> None:
    """A resent inbound is counted, not run, and moves no time (10.2: the same turn ran twice after finishing)."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        await runtime.ask("s", "play", 1, key="k")
        expiry = rows(path, "SELECT first_seen, expires_at FROM receipts")
        await runtime.ask("s", "play", 1, key="k")
        await runtime.ask("s", "play", 2, key="next")

        assert stage.inputs() == [1, 2]
        assert rows(path, "SELECT first_seen, expires_at FROM receipts WHERE key = 'k'") == expiry
        assert rows(path, "SELECT count(*) FROM turns") == [(2,)]


# ---------------------------------------------------------------- one turn at a time, and only there


async def test_tenants_share_nothing(path: Path) -> None:
    """The same session, agent and key are another actor in another tenant (10.6: two customers blocked each other)."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        receipts = [await runtime.tell("s", "play", tenant, key="k", tenant=tenant) for tenant in ("", "one", "two")]
        await until(lambda: len(stage.started) == 3)

        assert sorted(stage.inputs()) == ["", "one", "two"]
        assert not any(receipt.duplicate for receipt in receipts)

        stage.gate.set()
        for receipt, tenant in zip(receipts, ("", "one", "two"), strict=True):
            assert (await receipt.deliverable()).value == {"echo": tenant}
        assert await runtime.receipt("s", "play", "k", tenant="three") is None


async def test_sessions_and_agents_do_not_block_each_other(path: Path) -> None:
    """What runs alone is one (session, agent), no more and no less (10.6)."""
    stage, other = Stage(held=True), Stage()
    free = agent("free")(other.play.handler)
    async with Runtime(path, [stage.play, free], settings=FAST) as runtime:
        await runtime.tell("one", "play", 1)
        await runtime.tell("two", "play", 1)
        await until(lambda: stage.running == 2)

        assert (await runtime.ask("one", "free", 1)).value == {"echo": 1}


async def test_two_hundred_concurrent_tells_run_one_by_one_in_the_order_of_acceptance(path: Path) -> None:
    """One session never runs two turns at once (10.14), and loses none (10.7)."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        receipts: list[Receipt] = await asyncio.gather(*(runtime.tell("s", "play", n) for n in range(200)))
        results = [await receipt.deliverable() for receipt in receipts]
        accepted = rows(path, "SELECT turn_id FROM receipts ORDER BY rowid")
        kinds = "SELECT turn_id FROM edges WHERE kind = 'lease_acquired' ORDER BY edge_id"

        assert stage.running_most == 1
        assert [(turn.turn_id,) for turn in stage.started] == accepted == rows(path, kinds)
        assert [result.value["echo"] for result in results] == list(range(200))
        assert stage.inputs() == list(range(200))


async def test_a_message_to_a_busy_session_waits_and_its_redelivery_is_its_duplicate(path: Path) -> None:
    """Busy is not failed (10.7: it was, and its redelivery was then acknowledged as a duplicate: lost)."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        await runtime.tell("s", "play", "first")
        second = await runtime.tell("s", "play", "second", key="k")
        redelivered = await runtime.tell("s", "play", "second", key="k")
        stage.gate.set()

        assert (await redelivered.deliverable()).value == {"echo": "second"}
        assert redelivered.turn_id == second.turn_id
        assert stage.inputs() == ["first", "second"]


async def test_a_full_mailbox_refuses_before_it_acknowledges(path: Path) -> None:
    """Nothing of a refused inbound is written; its redelivery is new, not a duplicate (10.7)."""
    stage = Stage(held=True)
    settings = Settings(synchronous="OFF", mailbox_len_max=2, shutdown_s=0.05)
    async with Runtime(path, [stage.play], settings=settings) as runtime:
        accepted = [await runtime.tell("s", "play", n, key=f"k{n}") for n in range(3)]
        before = dump(path)
        with pytest.raises(MailboxFull) as caught:
            await runtime.tell("s", "play", 3, key="k3")

        assert caught.value.mailbox_len_max == 2
        assert dump(path) == before
        assert (await runtime.tell("s", "play", 2, key="k2")).duplicate

        stage.gate.set()
        await accepted[-1].deliverable()
        assert not (late := await runtime.tell("s", "play", 3, key="k3")).duplicate
        assert (await late.deliverable()).value == {"echo": 3}


# ---------------------------------------------------------------- callers who go away


@pytest.mark.parametrize("key", [None, "mine"])
async def test_a_cancelled_caller_kills_nothing(path: Path, key: str | None) -> None:
    """Cancelling an ask stops its waiting; the turn and other callers go on (10.14), own key or not (10.5)."""
    stage = Stage(held=True)
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        asking = asyncio.create_task(runtime.ask("s", "play", 1, key=key))
        await until(lambda: stage.started)
        receipt = await runtime.receipt("s", "play", stage.started[0].key)
        waiting = asyncio.create_task(receipt.deliverable())
        await checkpoint()
        asking.cancel()
        await asyncio.wait([asking])
        stage.gate.set()

        assert asking.cancelled()
        assert (await waiting).value == {"echo": 1}
        assert len(stage.started) == len(stage.ended) == 1


async def test_a_caller_cancelled_during_the_commit_loses_nothing(path: Path) -> None:
    """What was handed to the writer is written and run; its neighbour in the batch is answered."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        hold = Hold(runtime)
        gone = asyncio.create_task(runtime.tell("s", "play", "gone", key="gone"))
        await hold.asked.wait()
        stays = asyncio.create_task(runtime.ask("s", "play", "stays"))
        gone_too = asyncio.create_task(runtime.tell("s", "play", "gone too", key="gone too"))
        for _ in range(20):
            await checkpoint()
        gone.cancel()
        gone_too.cancel()
        hold.gate.set()
        await stays
        again = await runtime.tell("s", "play", "gone", key="gone")
        await (await runtime.tell("s", "play", "gone too", key="gone too")).deliverable()

        assert gone.cancelled()
        assert again.duplicate
        assert stage.inputs() == ["gone", "stays", "gone too"]


# ---------------------------------------------------------------- what cannot be accepted


@pytest.mark.parametrize(
    ("session", "agent_id", "options"),
    [
        ("", "play", {}),
        ("s\0", "play", {}),
        ("\ud800", "play", {}),
        (7, "play", {}),
        ("s" * 513, "play", {}),
        ("s", "", {}),
        ("s", "play", {"tenant": "\udfff"}),
        ("s", "play", {"tenant": None}),
        ("s", "play", {"key": ""}),
        ("s", "play", {"key": "~1"}),
        ("s", "play", {"key": b"k"}),
    ],
)
async def test_a_name_that_cannot_be_stored_is_refused(path: Path, session, agent_id, options: dict) -> None:
    """Names are text that can be stored and compared; others are `InvalidName`, and nothing is written."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        with pytest.raises(InvalidName):
            await runtime.tell(session, agent_id, 1, **options)

        assert runtime.statistics().agents == 0
        assert not any(dump(path).values())


@pytest.mark.parametrize("payload", [object(), "\udc80", 2**64, {"deep": {1, "x"}, "bad": 1j}])
async def test_a_payload_that_cannot_be_stored_is_refused(path: Path, payload: object) -> None:
    """A payload that msgpack cannot hold is `ContractViolation`, and nothing is written."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        with pytest.raises(ContractViolation, match="the payload"):
            await runtime.tell("s", "play", payload)

        assert not any(dump(path).values())


async def test_a_payload_that_contains_itself_or_is_too_large_is_refused(path: Path) -> None:
    """Depth and size have limits with errors of their own; what is exactly at the limit is accepted."""
    stage = Stage()
    circle: list = []
    circle.append(circle)
    async with Runtime(path, [stage.play], settings=Settings(synchronous="OFF", payload_bytes_max=100)) as runtime:
        with pytest.raises(ContractViolation):
            await runtime.tell("s", "play", circle)
        with pytest.raises(PayloadTooLarge) as caught:
            await runtime.tell("s", "play", b"x" * 99)

        assert (caught.value.size_bytes, caught.value.payload_bytes_max) == (101, 100)
        assert not any(dump(path).values())
        assert await runtime.tell("s", "play", b"x" * 98)


async def test_an_unknown_agent_is_refused_and_the_known_are_named(path: Path) -> None:
    """No agent, no receipt."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=FAST) as runtime:
        with pytest.raises(UnknownAgent, match="it has play"):
            await runtime.tell("s", "plya", 1)

        assert not any(dump(path).values())


def test_two_agents_of_one_name_are_refused(path: Path) -> None:
    """Names are unique in a runtime; nothing is touched before it is entered."""
    with pytest.raises(ValueError, match="play"):
        Runtime(path, [Stage().play, Stage().play])

    assert not path.exists()


async def test_nothing_is_admitted_before_what_the_store_holds_was_taken_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes meanwhile is told to send again."""
    begun, taken_up, recover = asyncio.Event(), asyncio.Event(), agents.recover

    async def slowly(node: Node, reception: Reception) -> None:
        begun.set()
        await taken_up.wait()
        await recover(node, reception)

    monkeypatch.setattr(agents, "recover", slowly)
    runtime = Runtime(path, [Stage().play], settings=FAST)
    entering = asyncio.create_task(runtime.__aenter__())
    await begun.wait()
    try:
        with pytest.raises(StorageFailed, match="on its way up"):
            await runtime.tell("s", "play", 1)
    finally:
        taken_up.set()
        await entering
        await runtime.aclose()
