"""Inspection: a running runtime answers what happened to its turns, in every state, and no answer changes a row."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from looking import FAST, dump, rows, token, until

from turnkeeper import DidNotHappen, Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.file import migrate
from turnkeeper.actors.store.reader import Reader
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed, TurnNotFound
from turnkeeper.kernel.lookback.explain import Explanation, explain
from turnkeeper.kernel.lookback.replay import ReplayVerdict
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.turn import TurnState

GOLDEN = Path(__file__).parents[1] / "golden" / "schema-1.db"


@tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
async def refund(order: str) -> str:
    if order == "doubtful":
        await asyncio.Event().wait()
    return f"refunded {order}"


@agent("desk", tools=[refund])
async def desk(turn: Turn) -> str:
    if turn.input == "slow":
        await asyncio.Event().wait()
    done = await turn.call(refund, turn.input)
    if turn.input == "broken":
        raise ValueError("no such order")
    return done


@pytest.fixture
def golden(path: Path) -> Path:
    """What a killed process left: a doubt, a turn behind it, one inside an effect; brought to the present schema."""
    shutil.copy(GOLDEN, path)
    migrate(path, "unused", 0.0)
    return path


@asynccontextmanager
async def lives(path: Path) -> AsyncIterator[tuple[Runtime, dict[str, int]]]:
    """Run a runtime with a turn in each place where one can be, by its name."""
    settings = Settings(synchronous="OFF", shutdown_s=0.02, retries_max=1, retry_base_s=30, retry_cap_s=30)
    async with Runtime(path, [desk], settings=settings) as runtime:
        told = {
            name: (await runtime.tell(session, "desk", payload, key=name)).turn_id
            for name, session, payload in (
                ("completed", "a", "W1"),
                ("running", "b", "slow"),
                ("behind", "b", "W2"),
                ("suspended", "c", "doubtful"),
                ("backing off", "d", "broken"),
            )
        }
        await runtime.tell("a", "desk", "W1", key="completed")
        await until(lambda: runtime.statistics().retried and runtime.statistics().suspended)
        await until(lambda: runtime.statistics().completed)
        yield runtime, told


# ---------------------------------------------------------------- explain


async def test_every_place_of_a_turn_is_explained_while_it_is_there(path: Path) -> None:
    """What it waits for, and what would happen next."""
    async with lives(path) as (runtime, told):
        found = {name: await runtime.explain(turn_id) for name, turn_id in told.items()}

    assert {name: one.state for name, one in found.items()} == {
        "completed": "completed",
        "running": "running",
        "behind": "queued",
        "suspended": "suspended",
        "backing off": "queued",
    }
    assert found["completed"].duplicates == 1
    assert "boot 1 runs it" in found["running"].waits_for
    assert found["behind"].behind == told["running"]
    assert "did refund[#0] happen?" in found["suspended"].waits_for
    assert "its backoff" in found["backing off"].waits_for
    assert all(one.waits_for and one.next and not one.stuck for one in found.values())


async def test_the_token_of_an_explanation_answers_the_doubt(path: Path) -> None:
    """It is the one that `resolve` takes."""
    async with lives(path) as (runtime, told):
        turn_id = told["suspended"]
        doubt = (await runtime.explain(turn_id)).doubt
        assert doubt is not None
        assert doubt.token == await token(runtime, turn_id)
        await runtime.resolve(turn_id, DidNotHappen(), token=doubt.token)
        await until(lambda: rows(path, "SELECT 1 FROM edges WHERE turn_id = ? AND kind = 'turn_resumed'", turn_id))
        happened = [one.what for one in (await runtime.explain(turn_id)).happened]

        assert "somebody said that refund[#0] did not happen; goes on under boot 1" in happened


@pytest.mark.parametrize("owned", [True, False], ids=["taken back by a runtime", "as the killed process left it"])
async def test_what_a_killed_process_leaves_is_explained(golden: Path, owned: bool) -> None:
    """With a runtime on it that has not its agent, and without one: each turn says what it waits for."""
    if owned:
        async with Runtime(golden, [], settings=FAST) as runtime:
            found = {turn: await runtime.explain(turn) for (turn,) in rows(golden, "SELECT turn_id FROM turns")}
    else:
        with Reader(golden) as reader:
            now = 2_000_000_000.0
            found = {turn: explain(reader, turn, now) for (turn,) in rows(golden, "SELECT turn_id FROM turns")}

    assert {one.state for one in found.values()} >= {TurnState.SUSPENDED, TurnState.QUEUED, TurnState.COMPLETED}
    assert all(one.waits_for and one.next for one in found.values())
    doubtful, behind, killed = found[5], found[6], found[7]
    assert "did refund[#0] happen?" in doubtful.waits_for or "was due" in doubtful.waits_for
    assert behind.behind == 5
    assert killed.state == (TurnState.QUEUED if owned else TurnState.RUNNING)
    assert killed.rerun is not None
    assert (killed.rerun.answered, killed.rerun.in_doubt) == (["find[#0]", "reserve[the order]"], ["killed[#0]"])
    if not owned:
        assert "boot 1, which ran it, ran out" in killed.stuck


# ---------------------------------------------------------------- the other questions


async def test_receipts_are_listed_by_age_trouble_and_duplicates(path: Path) -> None:
    """Those that wait; with a runtime at work none is stuck."""
    async with lives(path) as (runtime, told):
        waiting = [one.receipt_id for one in await runtime.receipts()]
        again = [(one.receipt_id, one.duplicates) for one in await runtime.receipts(duplicated=True)]

        assert waiting == [told[name] for name in ("running", "behind", "suspended", "backing off")]
        assert again == [(told["completed"], 1)]
        assert await runtime.receipts(stuck=True) == []
        assert await runtime.receipts(older_than_s=3_600) == []
        assert len(await runtime.receipts(limit=1)) == 1


async def test_two_turns_are_compared(path: Path) -> None:
    """A fork with its source: the step that it took over is the same."""
    async with Runtime(path, [desk], settings=Settings(synchronous="OFF", retries_max=0)) as runtime:
        source = (await runtime.ask("a", "desk", "broken", key="x")).turn_id
        fork = (await runtime.fork(source, from_step=1, key="y")).turn_id
        found = await runtime.diff(source, fork)

        assert (found.forked_from, found.same) == (source, ["refund[#0]"])


async def test_a_replay_is_planned_by_what_became_of_the_receipt(path: Path) -> None:
    """Live, done, or failed behind an effect: that is no `safe_retry`."""
    async with Runtime(path, [desk], settings=Settings(synchronous="OFF", retries_max=0)) as runtime:
        done = (await runtime.ask("a", "desk", "W1")).turn_id
        failed = (await runtime.ask("a", "desk", "broken")).turn_id
        live = (await runtime.tell("b", "desk", "doubtful")).turn_id
        plans = [await runtime.replay_plan(receipt_id) for receipt_id in (done, failed, live)]

        assert [plan.verdict for plan in plans] == [
            ReplayVerdict.TERMINAL_COMPLETED,
            ReplayVerdict.BLOCKED_PROCESSING,
            ReplayVerdict.BLOCKED_PROCESSING,
        ]
        assert [plan.fork_from_step for plan in plans] == [None, 1, None]


async def test_no_question_changes_a_row(golden: Path) -> None:
    """Neither by itself nor by being asked of every turn."""
    async with Runtime(golden, [], settings=FAST) as runtime:
        before = dump(golden)
        turns = [turn for (turn,) in rows(golden, "SELECT turn_id FROM turns")]
        for turn in turns:
            await runtime.explain(turn)
            await runtime.checkpoint(turn)
            await runtime.replay_plan(turn)
            await runtime.diff(turn, turns[0])
        for filters in ({}, {"stuck": True}, {"duplicated": True}, {"older_than_s": 1.0}):
            await runtime.receipts(**filters)
        await runtime.doubts()

        assert dump(golden) == before


async def test_events_of_checkpoints_come_in_the_order_of_commits(path: Path) -> None:
    """From behind the offset last seen, and without the duplicates."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        await runtime.ask("a", "desk", "W1", key="x")
        await runtime.ask("a", "desk", "W1", key="x")
        await runtime.ask("b", "desk", "W2")
        kinds, offsets = [], []
        with anyio.fail_after(10):
            async for event in runtime.events():
                kinds.append(event.kind)
                offsets.append(event.offset)
                if kinds.count("finalized") == 2:
                    break
            async for event in runtime.events(since=offsets[2]):
                assert event.offset == offsets[3]
                break

    assert offsets == sorted(offsets)
    assert kinds == ["created", "updated", "updated", "updated", "finalized"] * 2


# ---------------------------------------------------------------- what cannot be answered


Question = Callable[[Runtime, int], object]
QUESTIONS: dict[str, Question] = {
    "explain": lambda runtime, turn: runtime.explain(turn),
    "diff": lambda runtime, turn: runtime.diff(turn, turn),
    "replay plan": lambda runtime, turn: runtime.replay_plan(turn),
    "checkpoint": lambda runtime, turn: runtime.checkpoint(turn),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
async def test_a_turn_that_is_not_there_is_named(path: Path, question: Question) -> None:
    """Each question says so with the same error."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        with pytest.raises(TurnNotFound, match="no turn 99 in this store"):
            await question(runtime, 99)


async def test_a_number_that_no_row_can_have_is_no_turn(path: Path) -> None:
    """SQLite counts to 2**63; a caller may bring any number."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        for question in (runtime.explain, runtime.replay_plan):
            with pytest.raises(TurnNotFound):
                await question(2**70)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
async def test_damage_is_said_in_words(path: Path, question: Question) -> None:
    """Which turn, and who says more."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        turn_id = (await runtime.ask("a", "desk", "W1")).turn_id
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TRIGGER edges_never_change")
            connection.execute("UPDATE edges SET detail = x'92' WHERE turn_id = ? AND ordinal = 2", (turn_id,))
            connection.commit()
        with pytest.raises(StorageFailed, match=f"turn {turn_id}.*audit"):
            await question(runtime, turn_id)


async def test_a_closed_runtime_answers_nothing(path: Path) -> None:
    """It says that it is closing."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        pass
    for question in (runtime.explain(1), runtime.diff(1, 1), runtime.receipts(), runtime.replay_plan(1)):
        with pytest.raises(ShuttingDown):
            await question


async def test_a_question_of_your_own_sees_one_moment(path: Path) -> None:
    """All that it reads is of one view, whatever is committed meanwhile."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        await runtime.ask("a", "desk", "W1")
        loop = asyncio.get_running_loop()

        def asked(view: Rows) -> tuple[Explanation, list[int]]:
            first = explain(view, 1, 0.0)
            asyncio.run_coroutine_threadsafe(runtime.ask("a", "desk", "W2"), loop).result(10)
            return first, [one.row.turn_id for session in view.sessions() for one in view.turns(session.actor_id)]

        _, seen = await runtime._look(asked)

        assert seen == [1]
