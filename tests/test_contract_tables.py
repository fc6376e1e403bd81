"""The contract's two tables, of arrivals and of steps, on a real file: each case is a test named by its words."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from looking import FakeClock, check_invariants, kinds, rows, until

from turnkeeper import Agent, DidNotHappen, Effect, Happened, OnDoubt, Receipt, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.errors import IdempotencyConflict, ReplayDivergence

pytestmark = pytest.mark.anyio
FAST = Settings(shutdown_s=0.02, retries_max=0)


class Desk:
    """An agent `desk` that answers once `gate` is open; how often its handler ran."""

    def __init__(self, *, open_at_once: bool = True) -> None:
        self.gate = asyncio.Event()
        self.runs = 0
        if open_at_once:
            self.gate.set()

        @agent("desk")
        async def desk(turn: Turn) -> str:
            self.runs += 1
            await self.gate.wait()
            return f"about {turn.input}"

        self.desk: Agent = desk


def written(path: Path) -> list[Any]:
    return [rows(path, f"SELECT * FROM {table}") for table in ("turns", "receipts", "edges", "deliverables")]


# ---------------------------------------------------------------- section 3: what arrives, and its answer


async def test_new_key__new_receipt_and_turn_acknowledged_after_commit(path: Path) -> None:
    """What `tell` returns stands in the file already."""
    desk = Desk(open_at_once=False)
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", "W1", key="k")

        assert rows(path, "SELECT key, turn_id FROM receipts") == [("k", receipt.turn_id)]
        assert not receipt.duplicate


async def test_same_key_same_payload_turn_live__the_same_receipt_duplicate_count_plus_1_no_second_turn(
    path: Path,
) -> None:
    """However often it comes."""
    desk = Desk(open_at_once=False)
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        first = await runtime.tell("s", "desk", "W1", key="k")
        for count in (1, 2, 3):
            again = await runtime.tell("s", "desk", "W1", key="k")
            assert (again.turn_id, again.duplicate) == (first.turn_id, True)
            assert rows(path, "SELECT duplicate_count FROM receipts") == [(count,)]
        desk.gate.set()
        await first.deliverable()
    assert (desk.runs, len(rows(path, "SELECT * FROM turns"))) == (1, 1)


async def test_same_key_same_payload_turn_terminal__the_same_receipt_with_its_deliverable_byte_for_byte(
    path: Path,
) -> None:
    """In this process and in the next one."""
    desk = Desk()
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        first = await runtime.ask("s", "desk", "W1", key="k")
        again = await (await runtime.tell("s", "desk", "W1", key="k")).deliverable()
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        later = await (await runtime.tell("s", "desk", "W1", key="k")).deliverable()

    assert (again, later) == (first, first)
    assert (desk.runs, rows(path, "SELECT duplicate_count FROM receipts")) == (1, [(2,)])


@pytest.mark.parametrize("live", [True, False])
async def test_same_key_other_payload__idempotency_conflict_nothing_written(path: Path, live: bool) -> None:
    """Whether its turn is live or over."""
    desk = Desk(open_at_once=not live)
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", "W1", key="k")
        if not live:
            await receipt.deliverable()
        before = written(path)
        with pytest.raises(IdempotencyConflict):
            await runtime.tell("s", "desk", "W2", key="k")

        assert written(path) == before


async def test_same_key_after_its_time_to_live__a_new_receipt(path: Path, clock: FakeClock) -> None:
    """Also for another payload: the key is free again."""
    desk = Desk()
    async with Runtime(path, [desk.desk], settings=FAST, clock=clock) as runtime:
        first = await runtime.ask("s", "desk", "W1", key="k")
        clock.now += FAST.idempotency_s
        later = await runtime.ask("s", "desk", "W2", key="k")

    assert later.turn_id != first.turn_id
    assert later.value == "about W2"
    assert audit(path).violations == []


async def test_only_an_explicit_key_deduplicates_never_content_and_no_key_means_a_fresh_one(path: Path) -> None:
    """Two users who say the same are two turns."""
    desk = Desk()
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        receipts = [await runtime.tell("s", "desk", "hi") for _ in range(2)]

    assert len({receipt.turn_id for receipt in receipts}) == len({receipt.key for receipt in receipts}) == 2


async def test_key_scope_is_tenant_session_agent_key(path: Path) -> None:
    """The same key at four addresses is four turns."""
    desk = Desk()
    other = agent("other")(desk.desk.handler)
    async with Runtime(path, [desk.desk, other], settings=FAST) as runtime:
        sent: list[Receipt] = [
            await runtime.tell("s", "desk", "W1", key="k"),
            await runtime.tell("s", "desk", "W1", key="k", tenant="acme"),
            await runtime.tell("s", "other", "W1", key="k"),
            await runtime.tell("t", "desk", "W1", key="k"),
        ]

    assert len({receipt.turn_id for receipt in sent}) == 4


async def test_accepted__processing__completed_or_failed(path: Path) -> None:
    """A receipt says what its turn does."""
    desk = Desk(open_at_once=False)
    states = "SELECT key, state FROM receipt_states ORDER BY 1"
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        first = await runtime.tell("s", "desk", "W1", key="1")
        second = await runtime.tell("s", "desk", "W1", key="2")
        await until(lambda: desk.runs)
        assert rows(path, states) == [("1", "processing"), ("2", "accepted")]
        desk.gate.set()
        await first.deliverable()
        await second.deliverable()
        assert rows(path, states) == [("1", "completed"), ("2", "completed")]


async def test_a_replay_plan_has_no_side_effect(path: Path) -> None:
    """blocked_processing, terminal_completed, safe_retry; and not a byte is written."""
    desk = Desk(open_at_once=False)

    @agent("fails")
    async def fails(turn: Turn) -> None:
        raise ValueError(turn.input)

    async with Runtime(path, [desk.desk, fails], settings=FAST) as runtime:
        live = await runtime.tell("s", "desk", "W1")
        failed = await runtime.ask("s", "fails", "W1")
        before = written(path)
        assert (await runtime.replay_plan(live.turn_id)).verdict == "blocked_processing"
        assert (await runtime.replay_plan(failed.turn_id)).verdict == "safe_retry"
        assert written(path) == before
        desk.gate.set()
        await live.deliverable()
        assert (await runtime.replay_plan(live.turn_id)).verdict == "terminal_completed"


# ---------------------------------------------------------------- section 4: steps, killed between call and record


def outside(path: Path) -> list[str]:
    """Return the effects that happened out in the world, by their idempotency keys."""
    file = path.with_suffix(".effects")
    return file.read_text().split() if file.exists() else []


async def look_into(path: str) -> Happened | DidNotHappen:
    return Happened("found") if outside(Path(path)) else DidNotHappen()


POLICIES: dict[str, OnDoubt | Callable[..., Awaitable[Any]]] = {
    "ask": OnDoubt.ASK,
    "fail": OnDoubt.FAIL,
    "retry": OnDoubt.RETRY,
    "probe": look_into,
}

PROGRAM = """
import asyncio, os, signal, sys
sys.path.insert(0, {tests!r})
import test_contract_tables as tables

async def main():
    async with tables.Runtime({path!r}, [tables.caller({effect!r}, {policy!r}, dies=True)]) as runtime:
        await runtime.ask("s", "caller", {path!r}, key="k")

asyncio.run(main())
"""


def caller(effect: str, policy: str, *, dies: bool) -> Agent:
    """Return an agent whose one tool notes its call outside and, in the first process, is killed before its record."""
    import os
    import signal

    from turnkeeper import step_context

    async def act(path: str) -> str:
        with Path(path).with_suffix(".effects").open("a") as file:
            file.write(f"{step_context().idempotency_key or 'pure'}\n")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    act_tool = tool(effect=Effect(effect), on_doubt=POLICIES[policy])(act)

    @agent("caller")
    async def called(turn: Turn) -> str:
        return await turn.call(act_tool, turn.input)

    return called


def killed_between_call_and_record(path: Path, effect: str, policy: str) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent), path=str(path), effect=effect, policy=policy)
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert len(outside(path)) == 1


async def ended(path: Path, effect: str, policy: str) -> Any:
    async with Runtime(path, [caller(effect, policy, dies=False)], settings=FAST) as runtime:
        return await runtime.ask("s", "caller", str(path), key="k")


async def test_pure__nothing_need_be_durable__run_again(path: Path) -> None:
    """Before the call there is no intent."""
    killed_between_call_and_record(path, "pure", "ask")
    assert "step_intended" not in kinds(path)

    assert (await ended(path, "pure", "ask")).value == "done"
    assert outside(path) == ["pure", "pure"]
    check_invariants(path)


async def test_idempotent__intent_committed_with_a_key_the_tool_is_given__run_again_with_the_same_key(
    path: Path,
) -> None:
    """The intent was durable before the process died."""
    killed_between_call_and_record(path, "idempotent", "ask")
    assert kinds(path)[-1] == "step_intended"

    assert (await ended(path, "idempotent", "ask")).value == "done"
    assert len(outside(path)) == 2
    assert len(set(outside(path))) == 1
    check_invariants(path)


async def test_effectful__intent_committed__unknown__ask_suspends_on_an_approval(path: Path) -> None:
    """It is not repeated; the doubt names tool, arguments and key, and an answer ends it."""
    killed_between_call_and_record(path, "effectful", "ask")
    assert kinds(path)[-1] == "step_intended"

    async with Runtime(path, [caller("effectful", "ask", dies=False)], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "caller", str(path), key="k")
        await until(lambda: runtime.statistics().suspended)
        (doubt,) = await runtime.doubts()
        assert (doubt.tool, doubt.arguments, doubt.idempotency_key) == ("act", {"path": str(path)}, outside(path)[0])
        assert (await runtime.checkpoint(receipt.turn_id)).steps[0].status == "unknown"
        await runtime.resolve(receipt.turn_id, Happened("said so"), token=doubt.token)
        assert (await receipt.deliverable()).value == "said so"
    assert len(outside(path)) == 1
    check_invariants(path)


async def test_effectful__unknown__fail(path: Path) -> None:
    """The turn fails with the doubt, which stays in its record."""
    killed_between_call_and_record(path, "effectful", "fail")

    assert (await ended(path, "effectful", "fail")).failure.type == "EffectInDoubt"
    assert (len(outside(path)), "step_unknown" in kinds(path)) == (1, True)
    check_invariants(path)


async def test_effectful__unknown__retry(path: Path) -> None:
    """It is run again under the same key: its author said so."""
    killed_between_call_and_record(path, "effectful", "retry")

    assert (await ended(path, "effectful", "retry")).value == "done"
    assert (len(outside(path)), len(set(outside(path))), "step_unknown" in kinds(path)) == (2, 1, True)
    check_invariants(path)


async def test_effectful__unknown__probe_finds_out(path: Path) -> None:
    """It happened, so it is not repeated, and has the result that was found."""
    killed_between_call_and_record(path, "effectful", "probe")

    assert (await ended(path, "effectful", "probe")).value == "found"
    assert (len(outside(path)), "step_unknown" in kinds(path)) == (1, True)
    check_invariants(path)


async def test_a_steps_identity_is_its_name_and_its_call_key_never_a_global_position(path: Path) -> None:
    """Code around it changes between two attempts: a step before it goes, another comes."""
    looked: list[str] = []

    @tool(effect=Effect.PURE)
    async def look(text: str) -> str:
        looked.append(text)
        return text

    @agent("desk", tools=[look])
    async def desk(turn: Turn) -> str:
        if turn.attempt == 1:
            await turn.step("only at first", str, "x")
        else:
            await turn.step("only later", str, "y")
        found = await turn.call(look, "W1")
        if turn.attempt == 1:
            raise ValueError("once more")
        return found

    settings = Settings(retries_max=1, retry_base_s=0.001)
    async with Runtime(path, [desk], settings=settings) as runtime:
        assert (await runtime.ask("s", "desk", None)).value == "W1"
    assert looked == ["W1"]


async def test_a_recorded_step_called_with_other_arguments_is_replay_divergence_naming_both(path: Path) -> None:
    """Side by side, and the turn fails: it is not deterministic."""

    @agent("desk")
    async def desk(turn: Turn) -> None:
        await turn.step("say", str, f"attempt {turn.attempt}")
        raise ValueError("once more")

    settings = Settings(retries_max=1, retry_base_s=0.001)
    async with Runtime(path, [desk], settings=settings) as runtime:
        failure = (await runtime.ask("s", "desk", None)).failure

    assert failure is not None
    assert failure.type == ReplayDivergence.__name__
    recorded, asked = failure.message.splitlines()[1:]
    assert ("attempt 1" in recorded, "attempt 2" in asked) == (True, True)


async def test_the_checkpoint_shows_steps_in_issue_order_even_where_they_ran_in_parallel(path: Path) -> None:
    """Intents, results, errors with type, message and digest, and messages."""
    gate = asyncio.Event()

    @tool(effect=Effect.IDEMPOTENT)
    async def slow(number: int) -> int:
        await gate.wait()
        return number

    @tool(effect=Effect.PURE)
    async def wrong(number: int) -> int:
        gate.set()
        raise LookupError(f"no {number}")

    @agent("desk", tools=[slow, wrong])
    async def desk(turn: Turn) -> list[int]:
        return await turn.gather(turn.call(slow, 1), turn.call(slow, 2), turn.call(wrong, 3))

    async with Runtime(path, [desk], settings=FAST) as runtime:
        result = await runtime.ask("s", "desk", "go")
        shown = await runtime.checkpoint(result.turn_id)

    assert [(step.step, step.status, step.arguments) for step in shown.steps] == [
        ("slow[#0]", "succeeded", {"number": 1}),
        ("slow[#1]", "succeeded", {"number": 2}),
        ("wrong[#0]", "failed", {"number": 3}),
    ]
    error = shown.steps[2].error
    assert error is not None
    assert (error.type, error.message, error.recoverable) == ("LookupError", "no 3", True)
    assert [message.role for message in shown.messages] == ["user", *["call", "tool"] * 3, "assistant"]


async def test_checkpoint_events_come_from_committed_rows_so_a_late_subscriber_replays_without_a_gap(
    path: Path,
) -> None:
    """Created, updated, finalized, from any offset on, in this process or a later one."""
    desk = Desk()
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        await runtime.ask("s", "desk", "W1", key="k")
        await runtime.ask("s", "desk", "W1", key="k")
        await runtime.ask("s", "desk", "W2")
    seen: list[list[tuple[int, str]]] = []
    async with Runtime(path, [desk.desk], settings=FAST) as runtime:
        for since, left in ((0, 6), (1, 5), (3, 3), (5, 2)):
            events = runtime.events(since=since)
            seen.append([(event.offset, event.kind) async for event in taking(events, left)])

    assert seen[0][:3] == [(1, "created"), (2, "updated"), (3, "finalized")]
    assert [offset for offset, _ in seen[0]] == [1, 2, 3, 5, 6, 7]  # a duplicate changes no checkpoint
    assert all(part == seen[0][-len(part) :] for part in seen)


async def taking(events: Any, count: int) -> Any:
    """Yield as many events, and no more."""
    async for event in events:
        yield event
        count -= 1
        if not count:
            await events.aclose()
            return
