"""Show: a store's sessions, a session's turns, a turn's edges and steps, in order."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.output import out, print_json, print_line
from turnkeeper.cli.tables import printable, rows_table
from turnkeeper.kernel.edge import Failure, Wait, decode_detail
from turnkeeper.kernel.errors import InvalidName, TurnNotFound
from turnkeeper.kernel.lookback.waits import WAIT, WAITING, answer_of
from turnkeeper.kernel.receipt import STATE_OF
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.rows import NumberedEdge, SessionRow
from turnkeeper.kernel.step import StepRecord, fold_steps
from turnkeeper.kernel.turn import TurnState

__all__ = ["View", "moment", "print_view", "session_view", "sessions_view", "table", "turn_view"]

_CELL_LEN_MAX = 120
_DAMAGED = (msgspec.DecodeError, ValueError, RecursionError)


class View(NamedTuple):
    """The same content twice: as plain data for machines, as lines, tables or a tree for people."""

    data: Any
    parts: Sequence[str | Table | Tree]


def print_view(view: View, *, as_json: bool) -> None:
    """Print a view, for machines or for people."""
    if as_json:
        print_json(view.data)
        return
    for part in view.parts:
        if isinstance(part, str):
            print_line(part)
        else:
            out.print(part)


def sessions_view(db: Path) -> View:
    """Show every session agent of a store.

    Raises:
        StorageFailed, SchemaTooNew: it cannot be read.
    """
    with Reader(db) as reader:
        rows = [_session(row) for row in reader.sessions()]
    return View({"path": str(db), "sessions": rows}, [table(f"{db}: sessions", rows)])


def session_view(db: Path, session_id: str) -> View:
    """Show the turns of a session, agent by agent.

    Raises:
        InvalidName: the store has no such session.
        StorageFailed, SchemaTooNew: it cannot be read.
    """
    with Reader(db) as reader:
        rows = [
            {
                "turn": turn.row.turn_id,
                "agent": session.address.agent_id,
                "tenant": session.address.tenant,
                "state": turn.row.state,
                "receipt": STATE_OF[TurnState(turn.row.state)],
                "attempt": turn.row.attempt,
                "edges": turn.row.edges,
                "key": turn.receipt and turn.receipt.key,
                "arrived": turn.receipt and turn.receipt.arrived,
                "duplicates": turn.receipt and turn.receipt.duplicate_count,
                "first_seen": moment(turn.receipt.first_seen if turn.receipt is not None else None),
            }
            for session in _agents(reader, session_id)
            for turn in reader.turns(session.actor_id)
        ]
    return View({"session": session_id, "turns": rows}, [table(f"session {session_id}: turns", rows)])


def turn_view(db: Path, session_id: str, turn_id: int) -> View:
    """Show what happened in one turn: its edges and its steps, in order, and its deliverable.

    Raises:
        InvalidName, TurnNotFound: the store has no such session, or the session no such turn.
        StorageFailed, SchemaTooNew: it cannot be read.
    """
    with Reader(db) as reader:
        actors = {session.actor_id for session in _agents(reader, session_id)}
        stored = reader.turn(turn_id)
        row = stored.row if stored is not None else None
        if row is None or row.actor_id not in actors:
            raise TurnNotFound(turn_id)
        numbered = reader.edges(turn_id)
        deliverable = reader.deliverable(turn_id)
    edges = [_edge(one) for one in numbered]
    try:
        steps = [_step(step) for step in fold_steps(edge for _, edge in numbered).values()]
    except _DAMAGED:
        steps = []  # the edges say which of them is damaged
    delivered = _deliverable(deliverable)
    parts = [table(f"turn {turn_id}, {row.state}: edges", edges), table("steps, in the order of issue", steps)]
    if delivered is not None:
        parts.append(table("deliverable", [delivered]))
    data = {
        "session": session_id,
        "turn": turn_id,
        "state": row.state,
        "edges": edges,
        "steps": steps,
        "deliverable": delivered,
    }
    return View(data, parts)


def _agents(reader: Reader, session_id: str) -> list[SessionRow]:
    found = [session for session in reader.sessions() if session.address.session_id == session_id]
    if not found:
        raise InvalidName("session", f"{session_id!r} is not in {reader.path}")
    return found


def _session(row: SessionRow) -> dict[str, Any]:
    return {
        "session": row.address.session_id,
        "agent": row.address.agent_id,
        "tenant": row.address.tenant,
        "turns": row.turns,
        "live": row.live,
        "failed": row.failed,
        "last_seen": moment(row.last_at),
    }


def _edge(numbered: NumberedEdge) -> dict[str, Any]:
    edge = numbered.edge
    try:
        detail = decode_detail(edge)
        shown = {} if detail is None else {name: _plain(getattr(detail, name)) for name in detail.__struct_fields__}
    except _DAMAGED as error:
        shown = {"damaged": str(error)}
    return {
        "number": numbered.number,
        "ordinal": edge.ordinal,
        "kind": edge.kind,
        "epoch": edge.epoch,
        "at": moment(edge.at),
        "detail": {name: value for name, value in shown.items() if value is not None},
    }


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "issued": step.issued,
        "step": str(step.name),
        "effect": WAIT if step.wait is not None else step.effect,
        "status": WAITING if step.open else step.status,
        "arguments": msgspec.msgpack.decode(step.arguments) if step.arguments else None,
        "result": _result(step),
        "failure": _plain(step.failure),
        "idempotency_key": step.idempotency_key or None,
    }


def _result(step: StepRecord) -> Any:
    if step.wait is not None and step.result:
        return answer_of(step)
    return msgspec.msgpack.decode(step.result) if step.result else None


def _deliverable(found: Deliverable | None) -> dict[str, Any] | None:
    if found is None:
        return None
    completed = found.outcome == TurnState.COMPLETED
    value = msgspec.msgpack.decode(found.body, type=Any if completed else Failure)
    return {"outcome": found.outcome, "at": moment(found.at), "value": _plain(value)}


def _plain(value: Any) -> Any:
    """Return a detail's field as data: stored values decoded, failures and waits by field."""
    if isinstance(value, msgspec.Raw):
        return msgspec.msgpack.decode(value)
    if isinstance(value, Failure | Wait):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return value


def moment(at: float | None) -> str | None:
    """Return a wall time in UTC, to the millisecond."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> str | Table:
    """Return rows as a table, each cell on one line that cannot steer a terminal; of no rows, a line that says so."""
    if not rows:
        return f"{title}: none"
    columns = list(rows[0])
    return rows_table(escape(printable(title)), columns, [[_cell(row[name]) for name in columns] for row in rows])


def _cell(value: Any) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, dict):
        value = ", ".join(f"{name}={said}" for name, said in value.items())
    text = printable(" ".join(str(value).split()))
    return escape(text if len(text) <= _CELL_LEN_MAX else text[:_CELL_LEN_MAX] + " ...")
