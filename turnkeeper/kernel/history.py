"""History: the contract's invariants, checked on what is stored; `audit` and the verification kit ask here."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from turnkeeper.kernel.edge import (
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    decode_detail,
)
from turnkeeper.kernel.errors import IllegalTransition
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.rows import OpeningReceipt, Rows, SessionRow, StoredTurn
from turnkeeper.kernel.step import Effect
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState, begin, evolve

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
    """How much a check has looked at."""

    actors: int = 0
    turns: int = 0
    edges: int = 0
    live: int = 0


def check_rows(rows: Rows, tally: Tally) -> Iterator[Violation]:
    """Yield everything in a store that may not be, whatever made it; `tally` counts what was looked at."""
    for where, what in rows.orphans():
        yield Violation("no orphans", where, what)
    for session in rows.sessions():
        tally.actors += 1
        yield from _check_actor(rows, session, tally)


def _check_actor(rows: Rows, session: SessionRow, tally: Tally) -> Iterator[Violation]:
    intervals: list[Interval] = []
    started: list[int] = []
    for turn in rows.turns(session.actor_id):
        found = yield from _check_stored(rows, turn, tally)
        intervals.extend(found)
        if found or turn.row.state not in TERMINAL:
            started.append(turn.row.turn_id)
    where = str(session.address)
    for one, other in overlaps(intervals):
        yield Violation("one running turn", where, f"turns {one.turn_id} and {other.turn_id} ran at once")
    for later, earlier in out_of_order(started, intervals):
        yield Violation("order of acceptance", where, f"turn {later} started before turn {earlier}")


def _check_stored(rows: Rows, turn: StoredTurn, tally: Tally) -> Generator[Violation, None, list[Interval]]:
    """Yield what is wrong with a turn; return its runs."""
    numbered = rows.edges(turn.row.turn_id)
    tally.turns += 1
    tally.edges += len(numbered)
    tally.live += turn.row.state not in TERMINAL
    deliverable = rows.deliverable(turn.row.turn_id)
    yield from check_turn(turn.row, [edge for _, edge in numbered], deliverable, turn.receipt)
    return runs(turn.row.turn_id, ((number, edge.kind) for number, edge in numbered))


def check_turn(
    row: TurnRow, edges: Sequence[Edge], deliverable: Deliverable | None, receipt: OpeningReceipt | None
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


def _check_receipt(edges: Sequence[Edge], receipt: OpeningReceipt, where: str) -> Iterator[Violation]:
    inbound = decode_detail(edges[0])
    if isinstance(inbound, Inbound) and inbound.key != receipt.key:
        yield Violation("receipt = inbound", where, f"came under key {inbound.key!r}, its receipt says {receipt.key!r}")
    if isinstance(inbound, Inbound) and payload_digest(bytes(inbound.payload)) != receipt.digest:
        yield Violation("receipt = inbound", where, "its payload is not the one its receipt was given for")
    dropped = sum(edge.kind == EdgeKind.DUPLICATE_DROPPED for edge in edges)
    if dropped != receipt.duplicate_count:
        yield Violation("duplicates counted", where, f"receipts count {receipt.duplicate_count}, edges {dropped}")


def _fold(row: TurnRow, edges: Sequence[Edge], where: str) -> Generator[Violation, None, TurnRow]:
    """Fold the edges one by one, yielding each whose epoch is not the fold's; return the row they lead to."""
    folded: TurnRow | None = None
    for edge in edges:
        kind = EdgeKind(edge.kind)
        if folded is None:
            if kind is not EdgeKind.INBOUND_RECEIVED:
                raise IllegalTransition(None, kind)
            decode_detail(edge)
            folded = begin(row.turn_id, row.actor_id)
        else:
            folded = evolve(folded, kind, decode_detail(edge))
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
            case StepResult() | StepFailure() as outcome:
                name = StepName(outcome.name, outcome.call_key)
                if name in ended:
                    yield Violation("one outcome a step", where, f"step {name} ended twice")
                ended.add(name)
            case StepDoubt() as doubt:
                open_intents.discard(StepName(doubt.name, doubt.call_key))
            case Resumed(step=StepName() as name):
                open_intents.discard(name)
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


_STARTS = frozenset({EdgeKind.LEASE_ACQUIRED, EdgeKind.TURN_RESUMED})
_ENDS = frozenset(
    {
        EdgeKind.TURN_SUSPENDED,
        EdgeKind.TURN_REQUEUED,
        EdgeKind.TURN_COMPLETED,
        EdgeKind.TURN_FAILED,
        EdgeKind.TURN_CANCELLED,
    }
)


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
