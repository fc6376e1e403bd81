"""Edges: kinds, details, and how details are stored."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.kernel.edge import (
    ANYTIME,
    DETAILS,
    TRANSITION_KINDS,
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    Packet,
    PassedBack,
    PolicyResolved,
    Requeued,
    Resumed,
    Steered,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    Wait,
    decode_detail,
    encode_detail,
)
from turnkeeper.kernel.names import StepName


def stored(kind: EdgeKind, detail: bytes) -> Edge:
    return Edge(7, 0, kind, 1, 100.0, detail)


def again(kind: EdgeKind, detail: Detail) -> Detail | None:
    """Return the detail as it comes back from the store."""
    return decode_detail(stored(kind, encode_detail(detail)))


def plain(value: Any) -> Any:
    """Return a detail as builtins, its raw values as their bytes: `Raw` compares by identity of its buffer."""
    if isinstance(value, msgspec.Raw):
        return bytes(value)
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, [plain(getattr(value, name)) for name in value.__struct_fields__]
    return value


RAW = msgspec.Raw(msgspec.msgpack.encode({"order": "W42", "cents": None}))
NIL = msgspec.Raw(b"\xc0")
WHO = StepName("refund", "0")
EXAMPLES: list[tuple[EdgeKind, Detail]] = [
    (EdgeKind.INBOUND_RECEIVED, Inbound("msg-17", RAW)),
    (EdgeKind.INBOUND_RECEIVED, Inbound("msg-17", NIL)),
    (EdgeKind.INBOUND_RECEIVED, Inbound("msg-17", RAW, 900.0, 3, 2)),
    (EdgeKind.LEASE_ACQUIRED, LeaseGranted(3, 145.5)),
    (EdgeKind.LEASE_ACQUIRED, LeaseGranted(3, 145.5, "2")),
    (EdgeKind.TURN_SUSPENDED, Suspended("approval", 900.0, WHO)),
    (EdgeKind.TURN_SUSPENDED, Suspended("approval", 900.0, WHO, [WHO], "f00d")),
    (EdgeKind.TURN_SUSPENDED, Suspended("timer", 900.0)),
    (EdgeKind.TURN_RESUMED, Resumed(3, 145.5)),
    (EdgeKind.TURN_RESUMED, Resumed(3, 145.5, WHO)),
    (EdgeKind.TURN_RESUMED, Resumed(3, 145.5, WHO, True, RAW)),
    (EdgeKind.TURN_RESUMED, Resumed(3, 145.5, WHO, given_up=True)),
    (EdgeKind.TURN_REQUEUED, Requeued("recovery")),
    (EdgeKind.TURN_REQUEUED, Requeued("retry", 130.0, Failure("ValueError", "no", "ab12"), [WHO])),
    (EdgeKind.STEP_INTENDED, StepIntent(2, *WHO, "effectful", RAW, "store/7/refund/0")),
    (EdgeKind.STEP_INTENDED, StepIntent(2, *WHO, "effectful", RAW, "store/7/refund/0", "2:c0ffee")),
    (EdgeKind.STEP_SUCCEEDED, StepResult(2, *WHO, RAW)),
    (EdgeKind.STEP_SUCCEEDED, StepResult(2, *WHO, NIL)),
    (EdgeKind.STEP_SUCCEEDED, StepResult(2, *WHO, RAW, RAW)),
    (EdgeKind.STEP_SUCCEEDED, StepResult(2, *WHO, RAW, RAW, "2:c0ffee")),
    (EdgeKind.STEP_FAILED, StepFailure(2, *WHO, Failure("ValueError", "no"))),
    (EdgeKind.STEP_FAILED, StepFailure(2, *WHO, Failure("ValueError", "no", "ab12"), RAW)),
    (EdgeKind.STEP_FAILED, StepFailure(2, *WHO, Failure("Gone", "no", "ab12", "410", False), RAW, "2:c0ffee", 130.5)),
    (EdgeKind.STEP_UNKNOWN, StepDoubt(2, *WHO, "cut off by a crash")),
    (EdgeKind.POLICY_RESOLVED, PolicyResolved(*WHO, "ask")),
    (EdgeKind.POLICY_RESOLVED, PolicyResolved(*WHO, "probe", "happened")),
    (EdgeKind.POLICY_RESOLVED, PolicyResolved("turn", "", "cancel", by="ada", reason="not needed")),
    (EdgeKind.INBOUND_RECEIVED, Inbound("msg-17", RAW, 900.0, chain=[3, 5])),
    (EdgeKind.STEP_INTENDED, StepIntent(2, *WHO, "pure", RAW, "", "", Wait("timer", 900.0))),
    (EdgeKind.STEP_INTENDED, StepIntent(2, *WHO, "pure", RAW, "", "", Wait("child", 9.0, "", 8, ["", "s", "a"]))),
    (EdgeKind.STEERED, Steered(9, "msg-18", RAW, 900.0, "steer")),
    (EdgeKind.HANDOFF_INITIATED, Packet("billing", "money", "so far", "refund", 8)),
    (EdgeKind.HANDOFF_COMPLETED, PassedBack("billing", "completed")),
    (EdgeKind.ESCALATION_STARTED, Packet("anybody", "money", "so far", "refund")),
    (EdgeKind.ESCALATION_RESOLVED, PassedBack("ada", "answered")),
]


def names(examples: list[tuple[EdgeKind, Detail]]) -> list[str]:
    return [f"{number}-{kind.value}" for number, (kind, _) in enumerate(examples)]


# ---------------------------------------------------------------- kinds


def test_every_kind_has_the_value_that_databases_hold() -> None:
    """A kind is stored by its value: it may gain members, and never lose or rename one."""

    assert [kind.value for kind in EdgeKind] == [
        "inbound_received",
        "lease_acquired",
        "turn_suspended",
        "turn_resumed",
        "turn_requeued",
        "turn_completed",
        "turn_failed",
        "turn_cancelled",
        "step_intended",
        "step_succeeded",
        "step_failed",
        "step_unknown",
        "handoff_initiated",
        "handoff_completed",
        "escalation_started",
        "escalation_resolved",
        "steered",
        "policy_resolved",
        "model_attempt",
        "duplicate_dropped",
    ]


def test_a_kind_moves_the_turn_or_is_legal_at_any_time_but_never_both() -> None:
    """Transitions are the first eight kinds; a dropped duplicate is the one kind a terminal turn takes."""

    assert list(EdgeKind)[:8] == [kind for kind in EdgeKind if kind in TRANSITION_KINDS]
    assert {EdgeKind.DUPLICATE_DROPPED} == ANYTIME
    assert ANYTIME.isdisjoint(TRANSITION_KINDS)


# ---------------------------------------------------------------- details


@pytest.mark.parametrize(("kind", "detail"), EXAMPLES, ids=names(EXAMPLES))
def test_a_detail_comes_back_as_it_was_stored(kind: EdgeKind, detail: Detail) -> None:
    """Every detail, with and without its optional parts, is the same after the store."""

    assert plain(again(kind, detail)) == plain(detail)


def test_every_kind_with_a_detail_is_among_the_examples() -> None:
    """A new detail type joins the round trip above, in both forms if it has optional parts."""

    assert {(kind, type(detail)) for kind, detail in EXAMPLES} == set(DETAILS.items())


@pytest.mark.parametrize("kind", [kind for kind in EdgeKind if kind not in DETAILS])
def test_a_kind_without_a_detail_stores_nothing(kind: EdgeKind) -> None:
    """What these edges say is in their kind."""

    assert encode_detail(None) == b""
    assert decode_detail(stored(kind, b"")) is None


def test_a_result_of_none_that_a_person_found_out_is_not_no_result() -> None:
    """`Happened()` says that the effect happened, with the result None; it must survive the store as that."""
    found = again(EdgeKind.TURN_RESUMED, Resumed(3, 145.5, WHO, True, NIL))

    assert isinstance(found, Resumed)
    assert found.happened
    assert bytes(found.result) == b"\xc0"


# ---------------------------------------------------------------- the form on disk


@pytest.mark.parametrize(("kind", "detail"), EXAMPLES, ids=names(EXAMPLES))
def test_a_detail_is_stored_by_position(kind: EdgeKind, detail: Detail) -> None:
    """Details are arrays: no field name is repeated in a million rows."""
    array = msgspec.msgpack.decode(encode_detail(detail))

    assert isinstance(array, list)
    assert len(array) == len(detail.__struct_fields__)


@pytest.mark.parametrize(
    ("detail", "fields"),
    [
        (Failure, "type message traceback_digest"),
        (Inbound, "key payload"),
        (LeaseGranted, "boot_id lease_until"),
        (Requeued, "reason due_at failure forgotten"),
        (Suspended, "reason due_at step"),
        (Resumed, "boot_id lease_until step happened result"),
        (StepIntent, "issued name call_key effect arguments idempotency_key"),
        (StepResult, "issued name call_key result arguments"),
        (StepFailure, "issued name call_key failure arguments"),
        (StepDoubt, "issued name call_key why"),
    ],
)
def test_the_fields_of_a_detail_keep_their_places(detail: type[Detail], fields: str) -> None:
    """Stores of an older version hold these positions: fields are appended, never moved."""

    assert " ".join(detail.__struct_fields__[: len(fields.split())]) == fields


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        (EdgeKind.TURN_REQUEUED, ["recovery"]),
        (EdgeKind.TURN_SUSPENDED, ["timer", 900.0]),
        (EdgeKind.TURN_RESUMED, [3, 145.5]),
        (EdgeKind.STEP_SUCCEEDED, [2, "refund", "0", None]),
        (EdgeKind.STEP_FAILED, [2, "refund", "0", ["ValueError", "no"]]),
    ],
)
def test_a_detail_that_an_older_version_stored_can_be_read(kind: EdgeKind, array: list[object]) -> None:
    """Fields that were appended later have defaults."""
    detail = decode_detail(stored(kind, msgspec.msgpack.encode(array)))

    assert type(detail) is DETAILS[kind]


@pytest.mark.parametrize(("kind", "detail"), EXAMPLES, ids=names(EXAMPLES))
def test_a_detail_with_a_field_that_a_newer_version_appended_can_be_read(kind: EdgeKind, detail: Detail) -> None:
    """What is not known is passed over, so going back a version does not lose a history."""
    longer = [*msgspec.msgpack.decode(encode_detail(detail)), "what comes later"]

    assert plain(decode_detail(stored(kind, msgspec.msgpack.encode(longer)))) == plain(again(kind, detail))


@pytest.mark.parametrize("kind", DETAILS)
@pytest.mark.parametrize("damaged", [b"", b"\xc1", b"\x90", b"\xc0", b"\x81\xa1a\x01", b"\x91\xc4"])
def test_a_damaged_detail_is_an_error_and_not_a_guess(kind: EdgeKind, damaged: bytes) -> None:
    """Cut off, not msgpack, too few fields, another type: each is refused."""

    with pytest.raises(msgspec.DecodeError):
        decode_detail(stored(kind, damaged))


# ---------------------------------------------------------------- properties

text = st.text(max_size=20)
seconds = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**63 - 1)
steps = st.builds(StepName, text, text)
failures = st.builds(Failure, text, text, text)
values = st.recursive(
    st.none() | st.booleans() | counts | text | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=3,
)
raws = values.map(lambda value: msgspec.Raw(msgspec.msgpack.encode(value)))
optional_arguments = st.dictionaries(text, values, max_size=3).map(
    lambda value: msgspec.Raw(msgspec.msgpack.encode(value))
)
details = st.one_of(
    st.tuples(st.just(EdgeKind.INBOUND_RECEIVED), st.builds(Inbound, text, raws)),
    st.tuples(st.just(EdgeKind.LEASE_ACQUIRED), st.builds(LeaseGranted, counts, seconds)),
    st.tuples(st.just(EdgeKind.TURN_SUSPENDED), st.builds(Suspended, text, seconds, st.none() | steps)),
    st.tuples(
        st.just(EdgeKind.TURN_REQUEUED),
        st.builds(Requeued, text, st.none() | seconds, st.none() | failures, st.lists(steps, max_size=3)),
    ),
    st.tuples(st.just(EdgeKind.TURN_RESUMED), st.builds(Resumed, counts, seconds, steps, st.just(True), raws)),
    st.tuples(st.just(EdgeKind.STEP_INTENDED), st.builds(StepIntent, counts, text, text, text, raws, text)),
    st.tuples(st.just(EdgeKind.STEP_SUCCEEDED), st.builds(StepResult, counts, text, text, raws)),
    st.tuples(st.just(EdgeKind.STEP_SUCCEEDED), st.builds(StepResult, counts, text, text, raws, optional_arguments)),
    st.tuples(st.just(EdgeKind.STEP_FAILED), st.builds(StepFailure, counts, text, text, failures, optional_arguments)),
    st.tuples(st.just(EdgeKind.STEP_UNKNOWN), st.builds(StepDoubt, counts, text, text, text)),
)


@settings(deadline=None)
@given(details)
def test_any_detail_survives_the_store(kind_and_detail: tuple[EdgeKind, Detail]) -> None:
    """Whatever users put into payloads, arguments and results, and whatever errors say, comes back."""
    kind, detail = kind_and_detail

    assert plain(again(kind, detail)) == plain(detail)
