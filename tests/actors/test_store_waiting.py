"""What SQLite keeps of turns that wait: found without walking a table, and told by the audit where it is wrong."""

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from test_store_noted import keep, store_at, tamper

from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.file import migrate
from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sql import queries
from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind, Resumed, StepIntent, Suspended, Wait
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import ActorOpened, HandedOff, NodeStarted, Record, SignalSent, SignalTaken
from turnkeeper.kernel.signal import digested
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait

LEASE = Lease(1, 145.0)


def begun(turn_id: int, *chain: int) -> lifecycle.Change:
    """A turn that runs, of the actor of its number."""
    payload = b"\x01"
    arrived = Arrival(turn_id, turn_id, "key", payload, payload_digest(payload), 100.0, 200.0, chain=[*chain])
    return lifecycle.accept(arrived, LEASE)


def asked(row: TurnRow, issued: int, name: str, wait: Wait | None) -> lifecycle.Change:
    """A step that waits, or the call of an effect."""
    effect = "effectful" if wait is None else "pure"
    intent = StepIntent(issued, name, "0", effect, msgspec.Raw(b"\x80"), "", wait=wait)
    return lifecycle.observe(row, EdgeKind.STEP_INTENDED, intent, 101.0)


THIRD = begun(3)
CALLED = asked(THIRD.row, 5, "refund", None)
IN_DOUBT = Suspended("approval", 700.0, StepName("refund", "0"), token="t")
DOUBTED = lifecycle.suspend(CALLED.row, IN_DOUBT, 102.0, [OpenWait(5, "doubt", 700.0)])


def points() -> list[Sequence[Record]]:
    """Turn 1 stands on an approval and on turn 2, to which it was handed on; turn 3 on a doubt; turn 2 runs."""
    first, second = begun(1), begun(2, 1)
    approval = asked(first.row, 0, "ask", Wait("approval", 900.0, token="1.0.x"))
    handed = asked(approval.row, 4, "hand on", Wait("handoff", 800.0, child_id=2, to=["", "s", "agent-2"]))
    stands = [OpenWait(0, "approval", 900.0), OpenWait(4, "handoff", 800.0, 2)]
    stood = lifecycle.suspend(handed.row, Suspended("approval", 800.0), 102.0, stands)
    return [
        [NodeStarted(1, 4242, 100.0, 145.0)],
        [ActorOpened(number, "", "s", f"agent-{number}") for number in (1, 2, 3)],
        *(change.records for change in (first, second, THIRD, approval, handed, stood, CALLED, DOUBTED)),
        [HandedOff(2, "", "s", "agent-1", "agent-2", 101.0)],
        [digested(SignalSent(1, 2, "paid", "key", b"\x2a", 103.0, 203.0)), SignalTaken(2, 1)],
        [digested(SignalSent(2, 3, "paid", "key", b"\x2a", 103.0, 203.0))],
    ]


# ---------------------------------------------------------------- what the audit finds

TAMPERED = {
    "a wait that is gone": ("DELETE FROM waits WHERE kind = 'approval'", "waits = record"),
    "all waits of a turn that are gone": ("DELETE FROM waits WHERE turn_id = 1", "waits = record"),
    "a wait of another kind": ("UPDATE waits SET kind = 'signal' WHERE issued = 0", "waits = record"),
    "a wait of another step": ("UPDATE waits SET issued = 1 WHERE issued = 0", "waits = record"),
    "another deadline": ("UPDATE waits SET due_at = 901.0 WHERE issued = 0", "waits = record"),
    "another child": ("UPDATE waits SET child_id = 3 WHERE issued = 4", "waits = record"),
    "a wait that nobody asked for": ("INSERT INTO waits VALUES (NULL, 1, 7, 'timer', 950.0, NULL)", "waits = record"),
    "a doubt that is gone": ("DELETE FROM waits WHERE turn_id = 3", "waits = record"),
    "a doubt about another step": ("UPDATE waits SET issued = 6 WHERE turn_id = 3", "waits = record"),
    "a doubt until another time": ("UPDATE waits SET due_at = 750.0 WHERE turn_id = 3", "waits = record"),
    "a second doubt": ("INSERT INTO waits VALUES (NULL, 3, 6, 'doubt', 750.0, NULL)", "waits = record"),
    "a doubt that nobody has": ("INSERT INTO waits VALUES (NULL, 1, 7, 'doubt', 950.0, NULL)", "waits = record"),
    "a turn that is due at another time": ("UPDATE turns SET due_at = 750.0 WHERE turn_id = 1", "waits = record"),
    "a wait of a turn that runs": ("INSERT INTO waits VALUES (NULL, 2, 0, 'timer', 900.0, NULL)", "no orphans"),
    "a wait of no turn": ("INSERT INTO waits VALUES (NULL, 99, 0, 'timer', 900.0, NULL)", "no orphans"),
    "a child that is not there": ("UPDATE waits SET child_id = 99 WHERE issued = 4", "no orphans"),
    "a signal's number": ("UPDATE signals SET signal_id = 7 WHERE signal_id = 2", "digests"),
    "a signal's actor": ("UPDATE signals SET actor_id = 1 WHERE signal_id = 2", "digests"),
    "a signal's name": ("UPDATE signals SET name = 'sent' WHERE signal_id = 2", "digests"),
    "a signal's key": ("UPDATE signals SET key = 'other' WHERE signal_id = 2", "digests"),
    "a signal's body": ("UPDATE signals SET body = x'2b' WHERE signal_id = 2", "digests"),
    "a signal's time": ("UPDATE signals SET at = 104.0 WHERE signal_id = 2", "digests"),
    "how long a signal's key answers": ("UPDATE signals SET expires_at = 204.0 WHERE signal_id = 2", "digests"),
    "a signal to nobody": ("UPDATE signals SET actor_id = 99 WHERE signal_id = 2", "no orphans"),
    "a signal that another actor's turn has": ("UPDATE signals SET taken_by = 3 WHERE signal_id = 1", "no orphans"),
    "a handoff of another agent's turn": ("UPDATE handoffs SET turn_id = 3", "no orphans"),
    "a handoff to nobody": ("UPDATE handoffs SET to_agent = 'agent-9', turn_id = 99", "no orphans"),
    "a handoff in no session": ("UPDATE handoffs SET session_id = 't', turn_id = 99", "no orphans"),
    "a handoff of no tenant": ("UPDATE handoffs SET tenant = 'acme', turn_id = 99", "no orphans"),
}


def test_a_signals_digest_is_the_same_in_every_version() -> None:
    """It stands in stores: a version that computed another would find every older store damaged."""

    assert digested(SignalSent(1, 2, "paid", "key", b"\x2a", 103.0, 203.0)).digest.hex() == "ee6ab264a356329a"


async def test_what_turns_stand_on_lawfully_is_found_sound(path: Path) -> None:
    """Before and after one of them goes on; and where a turn that was handed a matter has been pruned."""
    await keep(path, *points())
    assert audit(path).violations == []
    await keep(path, lifecycle.resume(DOUBTED.row, LEASE, Resumed(1, 145.0), 103.0).records)
    assert audit(path).violations == []
    tamper(path, "UPDATE handoffs SET turn_id = 99")

    assert audit(path).violations == []


@pytest.mark.parametrize("tampered", TAMPERED)
async def test_what_was_changed_behind_its_back_is_found(tampered: str, path: Path) -> None:
    """Each fact of a wait and of a signal, rows that lead nowhere, and rows that are gone."""
    await keep(path, *points())
    statement, rule = TAMPERED[tampered]
    tamper(path, statement)
    rules = {found.rule for found in audit(path).violations}

    assert rule in rules
    assert "readable rows" not in rules


# ---------------------------------------------------------------- what a turn stands on stays


async def test_a_turn_on_which_another_comes_to_stand_while_it_is_to_be_pruned_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which turns go is found out beside the writer: here before turn 1 came to stand on turn 2."""
    await keep(path, *points(), lifecycle.end(begun(2, 1).row, EdgeKind.TURN_COMPLETED, b"\xc0", 104.0).records)
    monkeypatch.setattr(Reader, "prunable", lambda *_: [2])
    store = store_at(path)
    await store.open()
    pruned = await store.prune(1e9, 1e9, 10)
    await store.close()

    assert pruned == 0
    assert audit(path).violations == []


# ---------------------------------------------------------------- what is asked often costs what it finds

WALKED = {
    "awake_turns": {"turns_live", "turns_due"},
    "live_turns": {"turns_live"},
    "suspended_count": {"turns_due"},
    "signalled_turns": {"signals_waiting", "s"},
}
"""Statements that are about all live or suspended turns: they walk an index that has no others."""
SEARCHED = [
    "live_turns_of",
    "live_turns_after",
    "live_turns_in_session",
    "due_turns",
    "next_due",
    "waits_of",
    "waits_of_kind",
    "answered_children",
    "orphaned_children",
    "live_children_of",
    "address_of_turn",
    "waiting_signal",
    "signal",
    "signals_waiting_count",
    "handoffs_of",
    "joined_receipts",
    "turn_pruned",
    "turn_acquired",
    "turn_released",
    "wait_stood",
    "signal_taken",
    "receipt_moved",
]


def plan_of(name: str, path: Path) -> list[str]:
    """Return SQLite's plan for a statement."""
    migrate(path, "a1b2", 100.0)
    sql = queries()[name]
    numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    parameters = [None] * (max(numbered) if numbered else sql.count("?"))
    with closing(sqlite3.connect(path)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]


@pytest.mark.parametrize("name", [*WALKED, *SEARCHED])
def test_nothing_that_is_asked_often_walks_a_table(name: str, path: Path) -> None:
    """Not that of turns, which holds all that ever ended, nor that of edges: each is searched by an index."""
    plan = plan_of(name, path)
    walked = {step.split()[-1] for step in plan if step.startswith("SCAN")}

    assert walked == WALKED.get(name, set())
    assert walked or any(step.startswith("SEARCH") for step in plan)


@pytest.mark.parametrize("name", ["due_turns", "next_due", "waits_of", "waits_of_kind", "waiting_signal"])
def test_what_comes_in_order_is_not_sorted_first(name: str, path: Path) -> None:
    """The index has that order: a page costs a page, however many are behind it."""

    assert not [step for step in plan_of(name, path) if "TEMP B-TREE" in step]
