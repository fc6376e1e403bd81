"""History: the contract's invariants, checked on what is stored; `audit` and the verification kit ask here."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise

import msgspec

from turnkeeper.kernel.arrival import Arrived, Policy
from turnkeeper.kernel.edge import (
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    Requeued,
    Resumed,
    Steered,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    chained,
    decode_detail,
    sealed,
)
from turnkeeper.kernel.errors import IllegalTransition
from turnkeeper.kernel.joining import handed_of, joined_of
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import ReceiptRow, payload_digest
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.rows import Rows, SessionRow, StoredTurn
from turnkeeper.kernel.signal import digest_of_signal
from turnkeeper.kernel.state import digest_of_state
from turnkeeper.kernel.step import Effect
from turnkeeper.kernel.stood import wrong_stands
from turnkeeper.kernel.turn import TERMINAL, TERMINAL_KINDS, TurnRow, TurnState, begin, evolve

__all__ = ["Interval", "Tally", "Violation", "check_rows", "check_turn", "out_of_order", "overlaps", "runs"]


class Violation(msgspec.Struct, frozen=True):
    """One thing that may not be: which rule, where, and what was found."""

    rule: str
    where: str
    what: str


class Interval(msgspec.Struct, frozen=True):
    """A run of a turn, from the edge that granted its lease to the edge that ended it, None while it runs.

    Numbers are the store's own order of edges, so no clock can make two runs look apart.
    """

    turn_id: int
    start: int
    end: int | None


class Tally(msgspec.Struct):
    """How much a check has looked at. `unsealed` turns ended before there were digests."""

    actors: int = 0
    turns: int = 0
    edges: int = 0
    live: int = 0
    unsealed: int = 0


def check_rows(rows: Rows, tally: Tally) -> Iterator[Violation]:
    """Yield everything in a store that may not be, whatever made it; `tally` counts what was looked at."""
    for where, what in rows.orphans():
        yield Violation("no orphans", where, what)
    for session, turns in rows.histories():
        tally.actors += 1
        yield from _check_actor(rows, session, turns, tally)
    for sent, *_ in rows.signals():
        if digest_of_signal(sent) != sent.digest:
            yield Violation("digests", f"signal {sent.signal_id}", "is not what was written")


def _check_actor(rows: Rows, session: SessionRow, turns: Sequence[StoredTurn], tally: Tally) -> Iterator[Violation]:
    intervals: list[Interval] = []
    started: list[int] = []
    for turn in turns:
        found = yield from _check_stored(rows, turn, tally)
        intervals.extend(found)
        if found or turn.row.state not in TERMINAL:
            started.append(turn.row.turn_id)
    where = str(session.address)
    for one, other in overlaps(intervals):
        yield Violation("one running turn", where, f"turns {one.turn_id} and {other.turn_id} ran at once")
    for later, earlier in out_of_order(started, intervals):
        yield Violation("order of acceptance", where, f"turn {later} started before turn {earlier}")
    yield from _check_state(rows, session.actor_id, where)


def _check_state(rows: Rows, actor_id: int, where: str) -> Iterator[Violation]:
    """Yield what is wrong with what an actor remembers. The turn that left it may have been pruned."""
    state = rows.state(actor_id)
    if state is None:
        return
    if digest_of_state(state) != state.digest:
        yield Violation("digests", where, "its state is not what was written")
    left_by = rows.turn(state.turn_id)
    if left_by is not None and (left_by.row.actor_id, left_by.row.state) != (actor_id, TurnState.COMPLETED):
        yield Violation("state = a completed turn's", where, f"turn {state.turn_id} has left none")
    try:
        msgspec.msgpack.decode(state.body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        yield Violation("readable state", where, f"its state cannot be decoded: {error}")


def _check_stored(rows: Rows, turn: StoredTurn, tally: Tally) -> Generator[Violation, None, list[Interval]]:
    """Yield what is wrong with a turn; return its runs."""
    numbered = rows.edges(turn.row.turn_id)
    tally.turns += 1
    tally.edges += len(numbered)
    tally.live += turn.row.state not in TERMINAL
    deliverable = rows.deliverable(turn.row.turn_id)
    edges = [edge for _, edge in numbered]
    tally.unsealed += turn.row.state in TERMINAL and turn.sealed is None
    yield from check_turn(turn.row, edges, deliverable, turn.receipt)
    yield from _check_digests(turn, edges, deliverable)
    with suppress(msgspec.DecodeError, ValueError, RecursionError):  # of which was told above
        yield from _check_joined(rows, turn, edges)
        if turn.row.state == TurnState.SUSPENDED:
            for what in wrong_stands(turn.row, edges, rows.stands(turn.row.turn_id)):
                yield Violation("waits = record", f"turn {turn.row.turn_id}", what)
    return runs(turn.row.turn_id, ((number, edge.kind) for number, edge in numbered))


def check_turn(
    row: TurnRow, edges: Sequence[Edge], deliverable: Deliverable | None, receipt: ReceiptRow | None
) -> Iterator[Violation]:
    """Yield what is wrong with one turn: its row, edges, deliverable and receipts must say the same."""
    where = f"turn {row.turn_id}"
    ordinals = [edge.ordinal for edge in edges]
    if ordinals != list(range(len(edges))):
        yield Violation("edges without a gap", where, f"has ordinals {_short(ordinals)}")
    try:
        folded = yield from _fold(row, edges, where)
    except IllegalTransition as error:
        yield Violation("legal transitions", where, str(error))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        yield Violation("readable edges", where, f"an edge cannot be decoded: {error}")
    else:
        for name in row.__struct_fields__:
            stored, told = getattr(row, name), getattr(folded, name)
            if stored != told:
                yield Violation("fold of edges = row", where, f"{name} is {stored!r}, its edges say {told!r}")
        yield from _check_steps(edges, where)
        if receipt is not None:
            yield from _check_receipt(edges, receipt, where)
    yield from _check_deliverable(row, deliverable, where)


def _check_receipt(edges: Sequence[Edge], receipt: ReceiptRow, where: str) -> Iterator[Violation]:
    inbound = decode_detail(edges[0])
    if not isinstance(inbound, Inbound):
        return
    rule = "receipt = inbound"
    if receipt.turn_id != edges[0].turn_id:
        yield Violation(rule, where, f"its receipt leads to turn {receipt.turn_id}")
    if inbound.key != receipt.key:
        yield Violation(rule, where, f"came under key {inbound.key!r}, its receipt says {receipt.key!r}")
    if payload_digest(bytes(inbound.payload)) != receipt.digest:
        yield Violation(rule, where, "its payload is not the one its receipt was given for")
    if inbound.expires_at not in {None, receipt.expires_at}:
        yield Violation(
            rule, where, f"its key answers until {inbound.expires_at}, its receipt says {receipt.expires_at}"
        )
    if receipt.arrived == Arrived.STEERED or any(edge.kind == EdgeKind.STEERED for edge in edges):
        return  # duplicates of several messages are among them; see `_check_joined`
    seen = [edges[0].at, *(edge.at for edge in edges if edge.kind == EdgeKind.DUPLICATE_DROPPED)]
    if len(seen) - 1 != receipt.duplicate_count:
        yield Violation("duplicates counted", where, f"receipts count {receipt.duplicate_count}, edges {len(seen) - 1}")
    for name, told, stored in (("first", seen[0], receipt.first_seen), ("last", seen[-1], receipt.last_seen)):
        if told != stored:
            yield Violation(rule, where, f"was {name} seen at {told}, its receipt says {stored}")


def _check_joined(rows: Rows, turn: StoredTurn, edges: Sequence[Edge]) -> Iterator[Violation]:
    """Yield what is wrong with the messages that joined a turn: each is a part of it, or has a turn of its own."""
    where, rule = f"turn {turn.row.turn_id}", "what joined is there once"
    joined, handed = joined_of(turn.row.actor_id, edges), Counter(handed_of(edges))
    receipts = {receipt.receipt_id: receipt for receipt in rows.joined(turn.row.turn_id)}
    for number in receipts.keys() - joined.keys():
        yield Violation(rule, where, f"receipt {number} leads to it, and nothing of that joined it")
    late = [edge for edge in edges if edge.kind == EdgeKind.STEERED and edge.epoch]
    if any(isinstance(one := decode_detail(edge), Steered) and one.policy == Policy.COALESCE for edge in late):
        yield Violation(rule, where, "a message was coalesced into it after it had begun")
    for number, arrival in joined.items():
        receipt, taken = receipts.get(number), handed[number]
        if receipt is not None and (receipt.key, receipt.digest) != (arrival.key, arrival.digest):
            yield Violation("receipt = inbound", where, f"message {number} is not what its receipt was given for")
        if taken > 1:
            yield Violation(rule, where, f"message {number} was handed over {taken} times")
        steered = arrival.arrived == Arrived.STEERED and not taken
        if receipt is None and not (steered and turn.row.state in TERMINAL):
            yield Violation(rule, where, f"message {number} joined it, and its receipt leads elsewhere")
        if receipt is not None and steered and turn.row.state in TERMINAL:
            yield Violation(rule, where, f"ended, and nobody has had message {number}")
        if receipt is not None and rows.turn(number) is not None:
            yield Violation(rule, where, f"message {number} joined it, and has a turn of its own")
    yield from _check_duplicates(turn.receipt, edges, receipts, joined)


def _check_duplicates(
    receipt: ReceiptRow | None,
    edges: Sequence[Edge],
    receipts: Mapping[int, ReceiptRow],
    joined: Mapping[int, Arrival],
) -> Iterator[Violation]:
    """Yield duplicates that were not counted. Those of a message that moved stand with the turn where they came."""
    if receipt is None or not (joined or receipt.arrived == Arrived.STEERED):
        return
    dropped = sum(edge.kind == EdgeKind.DUPLICATE_DROPPED for edge in edges)
    counted = receipt.duplicate_count + sum(one.duplicate_count for one in receipts.values())
    moved_in, moved_out = receipt.arrived == Arrived.STEERED, joined.keys() != receipts.keys()
    if (dropped < counted and not moved_in) or (dropped > counted and not moved_out):
        yield Violation("duplicates counted", f"turn {receipt.turn_id}", f"receipts count {counted}, edges {dropped}")


def _check_digests(turn: StoredTurn, edges: Sequence[Edge], deliverable: Deliverable | None) -> Iterator[Violation]:
    """Yield what was changed after it was written, by itself: a value that is not what its digest was made of."""
    where = f"turn {turn.row.turn_id}"
    before = last = b""
    begun_with = bool(edges) and _has_digests(edges[0])
    for edge in edges:
        if edge.digest or before or begun_with:  # none: from before there were digests
            digest = chained(before, edge.turn_id, edge.kind, edge.at, edge.detail)
            if digest != edge.digest:
                yield Violation("digests", where, f"edge {edge.ordinal} is not what was written")
        before = edge.digest
        if edge.kind in TERMINAL_KINDS:
            last = edge.digest
    if deliverable is None or turn.sealed is None:
        if last and turn.row.state in TERMINAL:
            yield Violation("digests", where, "its row has no digest")
    elif sealed(last, deliverable.outcome, deliverable.body, deliverable.at) != turn.sealed:
        yield Violation("digests", where, "its history and its deliverable are not what its row's digest was made of")


def _fold(row: TurnRow, edges: Sequence[Edge], where: str) -> Generator[Violation, None, TurnRow]:
    """Fold the edges one by one, yielding each whose epoch is not the fold's; return the row they lead to."""
    folded: TurnRow | None = None
    for edge in edges:
        kind = EdgeKind(edge.kind)
        if folded is None:
            if kind is not EdgeKind.INBOUND_RECEIVED:
                raise IllegalTransition(None, kind)
            decode_detail(edge)
            folded = begin(row.turn_id, row.actor_id, edge.digest)
        else:
            folded = evolve(folded, kind, decode_detail(edge), edge.digest)
        if edge.epoch != folded.epoch:
            yield Violation(
                "epochs", where, f"edge {edge.ordinal} has epoch {edge.epoch}, those before it lead to {folded.epoch}"
            )
    if folded is None:
        raise IllegalTransition(None, "nothing")
    return folded


def _check_steps(edges: Iterable[Edge], where: str) -> Iterator[Violation]:
    """Yield steps that ended twice, and effects called again without anybody having looked into the first call."""
    open_intents: set[StepName] = set()
    ended: set[StepName] = set()
    for edge in edges:
        match decode_detail(edge):
            case StepIntent(effect=Effect.EFFECTFUL.value) as intent:
                name = StepName(intent.name, intent.call_key)
                if name in open_intents:
                    yield Violation("effects at most once", where, f"step {name} was intended again without a doubt")
                open_intents.add(name)
            case StepDoubt() | StepFailure(retry_at=float()) as looked:  # raising, it said that nothing had happened
                open_intents.discard(StepName(looked.name, looked.call_key))
            case StepResult() | StepFailure() as outcome:
                name = StepName(outcome.name, outcome.call_key)
                if name in ended:
                    yield Violation("one outcome a step", where, f"step {name} ended twice")
                ended.add(name)
            case Resumed(step=StepName() as name, given_up=False):
                open_intents.discard(name)
            case Resumed(step=StepName() as name):  # it may have happened, and nobody will find out
                open_intents.add(name)
            case Requeued(forgotten=forgotten) | Suspended(forgotten=forgotten):
                open_intents.difference_update(forgotten)
                ended.difference_update(forgotten)
            case _:
                pass


def _check_deliverable(row: TurnRow, deliverable: Deliverable | None, where: str) -> Iterator[Violation]:
    terminal = row.state in TERMINAL
    if terminal and deliverable is None:
        yield Violation("terminal = one deliverable", where, f"is {row.state} and has no deliverable")
    if not terminal and deliverable is not None:
        yield Violation("terminal = one deliverable", where, f"is {row.state} and has a deliverable")
    if deliverable is None:
        return
    if terminal and deliverable.outcome != row.state:
        yield Violation("terminal = one deliverable", where, f"is {row.state}, delivered as {deliverable.outcome}")
    try:
        if deliverable.outcome == TurnState.COMPLETED:
            msgspec.msgpack.decode(deliverable.body)
        else:
            msgspec.msgpack.decode(deliverable.body, type=Failure)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        yield Violation("readable deliverable", where, f"its deliverable cannot be decoded: {error}")


def _has_digests(first: Edge) -> bool:
    """Say whether a turn began when there were digests: its first edge then says how long its key answers."""
    try:
        inbound = decode_detail(first)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return True
    return isinstance(inbound, Inbound) and inbound.expires_at is not None


_STARTS = frozenset({EdgeKind.LEASE_ACQUIRED, EdgeKind.TURN_RESUMED})
_ENDS = TERMINAL_KINDS | {EdgeKind.TURN_SUSPENDED, EdgeKind.TURN_REQUEUED}


def runs(turn_id: int, numbered: Iterable[tuple[int, str]]) -> list[Interval]:
    """Return a turn's runs, from its edges as (number in the store, kind), in order."""
    found: list[Interval] = []
    start: int | None = None
    for number, kind in numbered:
        if kind in _STARTS:
            start = number
        elif kind in _ENDS and start is not None:
            found.append(Interval(turn_id, start, number))
            start = None
    if start is not None:
        found.append(Interval(turn_id, start, None))
    return found


def overlaps(intervals: Iterable[Interval]) -> list[tuple[Interval, Interval]]:
    """Return the runs of one actor that began while an earlier one was running, each with that one."""
    found: list[tuple[Interval, Interval]] = []
    before: Interval | None = None
    for interval in sorted(intervals, key=lambda one: one.start):
        if before is not None and (before.end is None or interval.start < before.end):
            found.append((before, interval))
        if before is None or (before.end is not None and (interval.end is None or interval.end > before.end)):
            before = interval
    return found


def out_of_order(turn_ids: Sequence[int], intervals: Iterable[Interval]) -> list[tuple[int, int]]:
    """Return the turns of one actor that started before one accepted earlier: (later, earlier).

    A turn that ended without ever running (cancelled in its queue) is not in `turn_ids`.
    """
    first: dict[int, int] = {}
    for interval in intervals:
        first[interval.turn_id] = min(interval.start, first.get(interval.turn_id, interval.start))
    found: list[tuple[int, int]] = []
    for earlier, later in pairwise(turn_ids):
        if later in first and first[later] < first.get(earlier, first[later] + 1):
            found.append((later, earlier))
    return found


def _short(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:12]))
    return f"{shown}, ..." if len(numbers) > 12 else shown  # noqa: PLR2004 - as many as fit a line
