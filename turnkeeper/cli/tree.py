"""The tree: what a running runtime's children do now, and what a store keeps of them, whether or not anybody runs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.text import Text
from rich.tree import Tree

from turnkeeper.actors.store.file import check_store
from turnkeeper.actors.store.file import resolve as resolved
from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.durations import ago
from turnkeeper.cli.output import json_option
from turnkeeper.cli.show import View, moment, print_view, table
from turnkeeper.cli.tables import printable
from turnkeeper.kernel.errors import DoorClosed
from turnkeeper.kernel.lookback.past import readable, span
from turnkeeper.kernel.rows import AgentRow, Rows
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.noted import (
    EVENTS_MAX,
    VERB_KINDS,
    ChildEvent,
    ChildEventKind,
    DesiredRow,
    Note,
)
from turnkeeper.supervisors.knock import knock
from turnkeeper.supervisors.tending import AGENTS

__all__ = ["COMMANDS"]

_LOOKED: Final = {
    "mailbox_len": "mailbox: {}",
    "running": "running: {}",
    "beat_age_s": "last beat {} ago",
    "progress_age_s": "last progress {} ago",
    "health": "{}",
    "pid": "pid {}",
}
"""How each part of a `Look` is said."""

_UNNOTED: Final = {"noted": "", "at": None, "boot_id": None, "incarnation": 0, "restarts": 0, "why": ""}

_db = click.argument("db", type=click.Path(path_type=Path))


# ---------------------------------------------------------------- as its runtime has it


def _live(db: Path) -> View:
    """Show the tree of the runtime that has a store open.

    Raises:
        DoorClosed: none has, or it closes.
        DoorError: it gave no answer.
        StorageFailed: it is no store.
    """
    file = resolved(db)
    check_store(file)
    try:
        tree = knock(file, "tree", {})
    except DoorClosed as closed:
        raise DoorClosed(closed.path, f"{closed.reason}, or it is closing or not answering") from closed
    drawn = Tree(Text(f"{printable(str(db))} live, as its runtime has it now"))
    _draw(drawn, tree)
    return View({"db": str(db), "live": True, "tree": tree}, [drawn])


def _draw(above: Tree, node: Mapping[str, Any], path: str = "") -> None:
    """Draw a node and all under it; a path, from under the root on, is what a verb takes."""
    drawn = above.add(Text(printable(f"{path or node['name']}  {', '.join(_facts(node))}")))
    for child in node["children"]:
        _draw(drawn, child, f"{path}/{child['name']}" if path else child["name"])
    if node["left_out"]:
        drawn.add(Text(f"... {node['left_out']} more"))


def _facts(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is known of a node, in a few words each."""
    yield node["kind"]
    if node["kind"] == "agent":  # it has no state but what is wanted of it
        yield node["desired"]
    else:
        yield node["state"]
        if node["desired"] != Desired.RUNNING:
            yield f"to be {node['desired']}"
    if node["incarnation"]:
        yield f"incarnation {node['incarnation']}"
    if node["restarts"]:
        yield f"restarts in its window: {node['restarts']}"
    look = node["look"] or {}
    for name, said in _LOOKED.items():
        if look.get(name) is not None:
            yield said.format(span(look[name]) if name.endswith("_s") else look[name])
    if node["starts_in_s"] is not None:
        yield f"starts again in {span(node['starts_in_s'])}"
    if node["why"]:
        yield f"last end: {node['why']}"


# ---------------------------------------------------------------- as the store keeps it


def _stored(db: Path) -> View:
    """Show what a store keeps: agents with their live turns, and what was last noted of children.

    Raises:
        StorageFailed, SchemaTooNew: it cannot be read.
    """
    with readable(str(db)), Reader(db) as rows:
        wanted = {row.path: row for row in rows.desired()}
        agents, children = _agents(rows, wanted), _children(rows, wanted)
    now = time.time()
    parts = [
        table(f"{db} as stored, whether it runs or not: agents", _aged(agents, now)),
        table(f"{db} as stored: children, as last noted", _aged(children, now)),
    ]
    return View({"db": str(db), "live": False, "agents": agents, "children": children}, parts)


def _agents(rows: Rows, wanted: Mapping[str, DesiredRow]) -> list[dict[str, Any]]:
    """Return the agents that the store knows, and those of which something is wanted that it does not know yet."""
    known = {f"{AGENTS}/{agent.agent_id}": agent for agent in rows.agents()}
    found = {path: AgentRow("", 0, 0, 0) for path in wanted if _of_agent(path)} | known
    return [
        {"path": path, "queued": agent.queued, "running": agent.running, "suspended": agent.suspended}
        | _said_of(wanted.get(path))
        for path, agent in sorted(found.items())
    ]


def _children(rows: Rows, wanted: Mapping[str, DesiredRow]) -> list[dict[str, Any]]:
    """Return what is known of everything else: the runtime's parts, children given to it, worker processes."""
    noted: dict[str, dict[str, Any]] = {path: dict(_UNNOTED) for path in wanted}
    for event in rows.child_events(limit=EVENTS_MAX):
        _note(noted.setdefault(event.path, dict(_UNNOTED)), event)
    return [
        {"path": path} | facts | _said_of(wanted.get(path))
        for path, facts in sorted(noted.items())
        if not _of_agent(path)
    ]


def _note(facts: dict[str, Any], event: ChildEvent) -> None:
    """Take an event into what is known of a child. Restarts are counted within a window, which ends with its boot."""
    if event.kind in VERB_KINDS:
        return
    note = event.note
    if event.boot_id != facts["boot_id"]:
        facts["restarts"] = 0
    if event.kind == ChildEventKind.RESTARTED:
        facts["restarts"] = note.restart
    facts |= {"noted": event.kind, "at": event.at, "boot_id": event.boot_id}
    facts["incarnation"] = event.incarnation or facts["incarnation"]
    facts["why"] = _reason(note) or facts["why"]


def _of_agent(path: str) -> bool:
    return path.startswith(f"{AGENTS}/")


def _said_of(row: DesiredRow | None) -> dict[str, Any]:
    """Return what is wanted; of what nothing was ever said, that it runs."""
    if row is None:
        return {"desired": Desired.RUNNING.value, "since": None, "by": "", "reason": ""}
    return {"desired": row.desired, "since": row.at, "by": row.changed_by, "reason": row.reason}


def _aged(rows: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """Return rows for people: moments as ages, and boots, which tell them nothing, left out."""
    ages = {"at", "since"}
    return [
        {
            name: ago(value, now) if name in ages and value is not None else value
            for name, value in row.items()
            if name != "boot_id"
        }
        for row in rows
    ]


def _reason(note: Note) -> str:
    return ": ".join(filter(None, (note.reason, note.error)))


# ---------------------------------------------------------------- what was noted


def _noted(db: Path, path: str | None, limit: int) -> View:
    """Show the newest events of supervision, of one path or of all.

    Raises:
        StorageFailed, SchemaTooNew: they cannot be read.
    """
    with readable(str(db)), Reader(db) as rows:
        events = [(event, event.note) for event in rows.child_events(path, limit=EVENTS_MAX)[-limit:]]
    data = [
        {"event_id": event.event_id, "at": event.at, "boot_id": event.boot_id, "path": event.path, "kind": event.kind}
        | {"incarnation": event.incarnation}
        | msgspec.structs.asdict(note)
        for event, note in events
    ]
    shown = [
        {
            "event": event.event_id,
            "at (UTC)": moment(event.at),
            "path": event.path,
            "kind": event.kind,
            "incarnation": event.incarnation or None,
            "by": note.by,
            "why": _reason(note),
            "code": note.code,
            "signal": note.signal,
            "restart": note.restart,
            "pause": None if note.pause_s is None else span(note.pause_s),
        }
        for event, note in events
    ]
    whose = "" if path is None else f" of {path}"
    return View({"events": data}, [table(f"{db} as stored: events{whose}, the newest last", shown)])


# ---------------------------------------------------------------- commands


@click.command("tree")
@_db
@click.option("--live", is_flag=True, help="Ask the runtime that has the store open.")
@json_option
def _tree(db: Path, live: bool, as_json: bool) -> None:
    """Show agents and children, and what is wanted of them: as the store keeps it, or as its runtime has it now.

    Restarts are those within the window of what is borne, as of now or, from the store, when the last one was noted.
    """
    print_view(_live(db) if live else _stored(db), as_json=as_json)


@click.command("child-events")
@_db
@click.argument("path", required=False)
@click.option("--limit", type=click.IntRange(1, EVENTS_MAX), default=100, show_default=True, help="The newest so many.")
@json_option
def _child_events(db: Path, path: str | None, limit: int, as_json: bool) -> None:
    """List what was noted of agents and children, of PATH or of all: who said what, who fell and came back."""
    print_view(_noted(db, path, limit), as_json=as_json)


COMMANDS: Final = (_tree, _child_events)
"""What `turnkeeper` can be asked about agents and children."""
