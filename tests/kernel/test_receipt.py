"""Receipts: what an inbound is answered with, by what its key already stands for."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.kernel.edge import EdgeKind, chained
from turnkeeper.kernel.errors import IdempotencyConflict
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, accept, drop_duplicate, end
from turnkeeper.kernel.receipt import STATE_OF, Admission, ReceiptRow, ReceiptState, admit, payload_digest
from turnkeeper.kernel.records import (
    EdgeAppended,
    EdgeAppendedLate,
    ReceiptAccepted,
    ReceiptRetired,
    ReceiptSeen,
    TurnInserted,
)
from turnkeeper.kernel.turn import TERMINAL, TRANSITIONS, TurnRow, TurnState

FIRST_SEEN, EXPIRES_AT = 1_000.0, 2_000.0
PAYLOAD, OTHER_PAYLOAD = b"\xa2hi", b"\xa2ho"


def receipt(state: ReceiptState = ReceiptState.PROCESSING) -> ReceiptRow:
    """Return a stored receipt for PAYLOAD under the key `msg-17`."""
    return ReceiptRow(7, 2, "msg-17", 7, payload_digest(PAYLOAD), state, 0, FIRST_SEEN, FIRST_SEEN, EXPIRES_AT)


def arrival(payload: bytes = PAYLOAD, turn_id: int = 7, at: float = FIRST_SEEN) -> Arrival:
    return Arrival(turn_id, 2, "msg-17", payload, payload_digest(payload), at, at + 1_000.0)


RUNNING = accept(arrival(), Lease(1, 1_045.0)).row
ENDED = end(RUNNING, EdgeKind.TURN_COMPLETED, b"\x2a", 1_010.0).row


# ---------------------------------------------------------------- the contract's table, row by row


@pytest.mark.parametrize("lease", [None, Lease(1, 1_045.0)], ids=["busy actor", "idle actor"])
def test_a_new_key_gets_a_new_receipt_and_turn_in_one_commit(lease: Lease | None) -> None:
    """Receipt, turn and inbound edge are one commit point: it is acknowledged whole, or never was."""
    answer = admit(None, payload_digest(PAYLOAD), FIRST_SEEN)
    records = accept(arrival(), lease).records

    assert answer is Admission.NEW
    assert [type(record) for record in records][:3] == [TurnInserted, ReceiptAccepted, EdgeAppended]
    assert records[1] == ReceiptAccepted(7, 2, "msg-17", 7, payload_digest(PAYLOAD), FIRST_SEEN, FIRST_SEEN, 2_000.0)


@pytest.mark.parametrize("state", [ReceiptState.ACCEPTED, ReceiptState.PROCESSING])
def test_the_same_key_and_payload_while_the_turn_is_live_is_the_same_receipt_counted_once_more(
    state: ReceiptState,
) -> None:
    """The duplicate is counted and leaves an edge; there is no second turn."""
    answer = admit(receipt(state), payload_digest(PAYLOAD), 1_020.0)
    row, records = drop_duplicate(RUNNING, 7, 7, 1_020.0)
    digest = chained(RUNNING.digest, 7, "duplicate_dropped", 1_020.0, b"")

    assert answer is Admission.DUPLICATE
    assert records == [
        ReceiptSeen(1_020.0, 7),
        EdgeAppended(RUNNING.edges, "duplicate_dropped", RUNNING.epoch, 1_020.0, b"", 7, RUNNING.epoch, digest),
    ]
    assert row == msgspec.structs.replace(RUNNING, edges=RUNNING.edges + 1, digest=digest)


@pytest.mark.parametrize("state", [ReceiptState.COMPLETED, ReceiptState.FAILED, ReceiptState.CANCELLED])
def test_the_same_key_and_payload_after_the_turn_is_terminal_is_the_same_receipt_and_changes_no_turn(
    state: ReceiptState,
) -> None:
    """Nothing of the turn or its deliverable is written again, so the answer stays as it was, byte for byte."""
    answer = admit(receipt(state), payload_digest(PAYLOAD), 1_020.0)
    row, records = drop_duplicate(None, 7, 7, 1_020.0)

    assert answer is Admission.DUPLICATE
    assert row is None
    assert records == [ReceiptSeen(1_020.0, 7), EdgeAppendedLate("duplicate_dropped", 1_020.0, b"", 7)]


def test_a_duplicate_of_a_terminal_turn_held_in_memory_leaves_its_state_and_version_alone() -> None:
    """A dropped duplicate is the one thing that may still happen to a turn that has ended."""
    row, _ = drop_duplicate(ENDED, 7, 7, 1_020.0)

    assert row is not None
    assert row == msgspec.structs.replace(ENDED, edges=ENDED.edges + 1, digest=row.digest)


@pytest.mark.parametrize("state", ReceiptState)
def test_the_same_key_with_another_payload_is_a_conflict(state: ReceiptState) -> None:
    """The decision raises before there is anything to write; the error names the key and its turn."""

    with pytest.raises(IdempotencyConflict) as refused:
        admit(receipt(state), payload_digest(OTHER_PAYLOAD), 1_020.0)
    assert (refused.value.key, refused.value.turn_id) == ("msg-17", 7)


@pytest.mark.parametrize("state", ReceiptState)
@pytest.mark.parametrize("payload", [PAYLOAD, OTHER_PAYLOAD], ids=["same payload", "other payload"])
def test_the_same_key_after_its_time_to_live_is_a_new_receipt(state: ReceiptState, payload: bytes) -> None:
    """The old receipt is retired in the commit that accepts the new one, whatever the payload is."""
    answer = admit(receipt(state), payload_digest(payload), EXPIRES_AT)
    records = accept(arrival(payload, turn_id=9, at=EXPIRES_AT), None, retired=7).records

    assert answer is Admission.RENEWED
    assert records[0] == ReceiptRetired(7)
    assert [record.receipt_id for record in records if isinstance(record, ReceiptAccepted)] == [9]


# ---------------------------------------------------------------- the time to live


def test_the_time_to_live_ends_at_its_last_moment_and_not_before() -> None:
    """At `expires_at` the key is free; just before, it still answers."""

    assert admit(receipt(), payload_digest(PAYLOAD), EXPIRES_AT - 0.001) is Admission.DUPLICATE
    assert admit(receipt(), payload_digest(PAYLOAD), EXPIRES_AT) is Admission.RENEWED


def test_a_duplicate_does_not_prolong_the_time_to_live() -> None:
    """Counting a duplicate writes when it was seen and how often; no deadline moves (a nudge never moves one)."""
    _, records = drop_duplicate(None, 7, 7, 1_999.0)

    assert records[0] == ReceiptSeen(last_seen=1_999.0, receipt_id=7)
    assert not [record for record in records if isinstance(record, ReceiptAccepted | ReceiptRetired)]


# ---------------------------------------------------------------- states


def test_a_receipt_says_what_its_turn_says() -> None:
    """accepted -> processing -> completed | failed | cancelled, each the turn's state in other words."""
    words: Mapping[str, str] = {turn.value: receipt.value for turn, receipt in STATE_OF.items()}

    assert words == {
        "queued": "accepted",
        "running": "processing",
        "suspended": "processing",
        "completed": "completed",
        "failed": "failed",
        "cancelled": "cancelled",
    }
    assert set(STATE_OF) == set(TurnState)
    assert set(STATE_OF.values()) == set(ReceiptState)


def test_a_receipt_never_goes_back_except_to_wait_for_another_attempt() -> None:
    """Along every transition the receipt stays, moves on, or (requeue alone) is accepted again."""
    place = list(ReceiptState)
    back = {
        kind
        for (before, kind), after in TRANSITIONS.items()
        if before is not None and place.index(STATE_OF[after]) < place.index(STATE_OF[before])
    }

    assert back == {EdgeKind.TURN_REQUEUED}
    assert {STATE_OF[state] for state in TERMINAL} == {
        ReceiptState.COMPLETED,
        ReceiptState.FAILED,
        ReceiptState.CANCELLED,
    }


# ---------------------------------------------------------------- properties

payloads = st.binary(max_size=64)


@settings(deadline=None)
@given(first=payloads, second=payloads, now=st.floats(0, 3_000))
def test_a_key_is_answered_by_its_age_and_its_payload_alone(first: bytes, second: bytes, now: float) -> None:
    """Three outcomes, no fourth: renewed when old, duplicate when equal, a conflict otherwise."""
    known = msgspec.structs.replace(receipt(), digest=payload_digest(first))

    if now >= EXPIRES_AT:
        assert admit(known, payload_digest(second), now) is Admission.RENEWED
    elif first == second:
        assert admit(known, payload_digest(second), now) is Admission.DUPLICATE
    else:
        with pytest.raises(IdempotencyConflict):
            admit(known, payload_digest(second), now)


@settings(deadline=None)
@given(payload=payloads, now=st.floats(0, 3_000))
def test_content_alone_never_makes_a_duplicate(payload: bytes, now: float) -> None:
    """Without a receipt under its key, an inbound is new whatever it says: two users may both say hi."""

    assert admit(None, payload_digest(payload), now) is Admission.NEW


@settings(deadline=None)
@given(payload=payloads, now=st.floats(0, 3_000))
def test_an_arrival_in_memory_is_judged_as_its_stored_receipt_is(payload: bytes, now: float) -> None:
    """A key answers the same before and after a restart."""
    answers = []
    for known in (arrival(), receipt()):
        try:
            answers.append(admit(known, payload_digest(payload), now).value)
        except IdempotencyConflict as conflict:
            answers.append(str(conflict))

    assert answers[0] == answers[1]


@settings(deadline=None)
@given(payload=payloads)
def test_a_digest_is_sixteen_bytes_and_the_payloads_own(payload: bytes) -> None:
    """The digest is the same in every process, so a key survives a restart with its meaning."""

    assert len(payload_digest(payload)) == 16
    assert payload_digest(payload) == payload_digest(bytes(bytearray(payload)))
    assert payload_digest(payload) != payload_digest(payload + b"\0")


def test_a_digest_is_the_same_in_every_version() -> None:
    """Receipts outlive upgrades: this value is stored in databases."""

    assert payload_digest(PAYLOAD).hex() == "c5519d7ed2579ca0a537d5c678eb9498"


@settings(deadline=None)
@given(drops=st.lists(st.booleans(), max_size=20))
def test_however_many_duplicates_come_there_is_one_turn(drops: list[bool]) -> None:
    """Every duplicate adds one count and one edge, and nothing else."""
    row: TurnRow = RUNNING
    written = []
    for number, in_memory in enumerate(drops):
        after, records = drop_duplicate(row if in_memory else None, 7, 7, 1_020.0 + number)
        row = after or row
        written += records

    assert sum(isinstance(record, ReceiptSeen) for record in written) == len(drops)
    assert sum(isinstance(record, EdgeAppended | EdgeAppendedLate) for record in written) == len(drops)
    assert len(written) == 2 * len(drops)
    assert row == msgspec.structs.replace(RUNNING, edges=RUNNING.edges + sum(drops), digest=row.digest)
