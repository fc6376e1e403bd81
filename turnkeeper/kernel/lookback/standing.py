"""Standing: what a live turn waits for, and whether anything would still move it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.lookback.past import listed, past_of, span
from turnkeeper.kernel.lookback.waits import words_of
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.turn import TurnRow, TurnState

__all__ = ["GRACE_S", "Standing", "ahead_of", "standing"]

GRACE_S: Final = 5.0
"""How long something that is due may be late before it counts as stuck: timers and commits under load."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a live turn waits for, in words. `until` is wall time, s; `behind` the first live turn of its actor.

    `stuck` says why nothing will move it as things are; it is empty where something will.
    """

    waits_for: str
    until: float | None = None
    behind: int | None = None
    stuck: str = ""


class _Asked(NamedTuple):
    """What the answer depends on, besides the turn's row."""

    rows: Rows
    agent_id: str
    now: float
    lease_until: Callable[[int], float | None]


def ahead_of(rows: Rows, row: TurnRow) -> list[TurnRow]:
    """Return the live turns of the same actor that were accepted before a turn: they end before it starts."""
    earlier = [rows.turn(turn_id) for turn_id in rows.live_of(row.actor_id) if turn_id < row.turn_id]
    return [one.row for one in earlier if one is not None]


def standing(
    rows: Rows,
    row: TurnRow,
    ahead: Sequence[TurnRow],
    now: float,
    lease_until: Callable[[int], float | None] | None = None,
) -> Standing:
    """Return what a live turn waits for at a moment (wall time, s).

    Args:
        rows: where it is stored.
        row: the turn.
        ahead: see `ahead_of`.
        now: the moment.
        lease_until: as `Rows.lease_until`; one that remembers, where many turns are asked about.
    """
    address = rows.address(row.actor_id)
    asked = _Asked(rows, address.agent_id if address is not None else "?", now, lease_until or rows.lease_until)
    match row.state:
        case TurnState.RUNNING:
            return _running(row, asked)
        case TurnState.SUSPENDED:
            return _suspended(row, asked)
        case _ if ahead:
            return _behind(ahead, asked)
        case _:
            return _queued(row, asked)


def _running(row: TurnRow, asked: _Asked) -> Standing:
    boot_id = row.boot_id if row.boot_id is not None else -1
    until = asked.lease_until(boot_id)
    if until is None:
        stuck = f"boot {boot_id}, which ran it, has stopped"
        return Standing(waits_for=f"a runtime to take it back: {stuck}", stuck=stuck)
    if until <= asked.now:
        late = span(asked.now - until)
        stuck = f"the lease of boot {boot_id}, which ran it, ran out {late} ago: its process is dead, or stands still"
        return Standing(waits_for=f"a runtime to take it back: {stuck}", until=until, stuck=stuck)
    runs = f"nothing: boot {boot_id} runs it, under a lease for another {span(until - asked.now)}"
    return Standing(waits_for=runs, until=until)


def _suspended(row: TurnRow, asked: _Asked) -> Standing:
    left = (row.due_at or 0.0) - asked.now
    if left > 0:
        said = f"an answer, for another {span(left)}"
        with suppress(StorageFailed):  # what of it is damaged is for others to say
            past = past_of(asked.rows, row.turn_id)
            awaited = [words_of(stand, asked.now) for stand in past.stands()]
            if awaited:
                said = "; ".join([*awaited, *([said] if past.in_doubt is not None else [])])
        return Standing(waits_for=said, until=row.due_at)
    waits_for = f"nothing any more: its answer was due {span(-left)} ago, and a runtime ends it"
    stuck = f"its answer was due {span(-left)} ago, and no runtime has ended it" if -left >= GRACE_S else ""
    return Standing(waits_for=waits_for, until=row.due_at, stuck=stuck)


def _behind(ahead: Sequence[TurnRow], asked: _Asked) -> Standing:
    first = ahead[0]
    head = standing(asked.rows, first, (), asked.now, asked.lease_until)
    names = "turn" if len(ahead) == 1 else "turns"
    which = "which" if len(ahead) == 1 else f"of which {first.turn_id}"
    waits_for = f"its place behind {names} {listed([one.turn_id for one in ahead])}, {which} is {first.state}"
    stuck = f"it is behind turn {first.turn_id}, which is stuck: {head.stuck}" if head.stuck else ""
    return Standing(waits_for=waits_for, behind=first.turn_id, stuck=stuck)


def _queued(row: TurnRow, asked: _Asked) -> Standing:
    """Say what the head of a queue waits for: its backoff, or a runtime that starts it."""
    now = asked.now
    if row.due_at is not None and row.due_at > now:
        return Standing(waits_for=f"its backoff, for another {span(row.due_at - now)}", until=row.due_at)
    edges = asked.rows.edges(row.turn_id)
    since = row.due_at if row.due_at is not None else edges[-1].edge.at if edges else now
    late = span(now - since)
    none = f"none has the store open, or none was given agent {asked.agent_id!r}"
    stuck = f"it could have started {late} ago, and no runtime has started it: {none}" if now - since >= GRACE_S else ""
    waits_for = f"a runtime with agent {asked.agent_id!r} to start it: nothing is ahead of it"
    return Standing(waits_for=waits_for, until=row.due_at, stuck=stuck)
