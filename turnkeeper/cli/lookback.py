"""Looking back: what happened to a turn and what can be done about it, asked of a store's file, used or not."""

import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.table import Table

from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.durations import ago, duration_s
from turnkeeper.cli.output import json_option, named, out, print_json, print_line
from turnkeeper.cli.show import moment, table
from turnkeeper.kernel.lookback.backlog import RECEIPTS_MAX, ReceiptView, receipts
from turnkeeper.kernel.lookback.checkpoint import Checkpoint, Doubt, Event, checkpoint, doubts
from turnkeeper.kernel.lookback.compare import Difference, diff
from turnkeeper.kernel.lookback.explain import Explanation, explain, resolving
from turnkeeper.kernel.lookback.past import listed, readable, span, under
from turnkeeper.kernel.lookback.replay import ReplayPlan, plan_replay
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.rows import Rows
from turnkeeper.supervisors.inspection import event_of

__all__ = ["COMMANDS"]

_PAGE: Final = 500
_POLL_S: Final = 0.2


class _Shown(NamedTuple):
    """The same content twice: as plain data for machines, as lines and tables for people."""

    data: Any
    parts: Sequence[str | Table]


def _show(db: Path, question: Callable[[Rows], _Shown], *, as_json: bool) -> None:
    """Answer a question about a store's rows; commands in the answer name this store."""
    with Reader(db) as rows:
        shown = question(rows)
    if as_json:
        print_json(shown.data)
        return
    for part in shown.parts:
        if isinstance(part, Table):
            out.print(part)
        else:
            print_line(named(part, db))


# ---------------------------------------------------------------- for people


def _explained(found: Explanation) -> Iterator[str]:
    version = f", version {found.version!r}" if found.version else ""
    yield f"turn {found.turn_id} of {_address(found)}: {found.state}, attempt {found.attempt}{version}"
    for place, one in enumerate(found.happened):
        if found.left_out and place == found.gap_at:
            yield _line("", f"... {found.left_out} more")
        yield _line(ago(one.at, found.now), one.what)
    yield _line("waits for", found.waits_for)
    for place, said in enumerate(found.next):
        yield _line("" if place else "next", said)


def _compared(found: Difference) -> Iterator[str | Table]:
    if found.forked_from is not None:
        fork = found.b if found.forked_from == found.a else found.a
        yield f"turn {fork} is a fork of turn {found.forked_from}, with {found.steps_taken} of its steps"
    yield f"the same in both: {listed(found.same) or 'no step'}"
    if not found.different:
        yield f"turns {found.a} and {found.b} do not differ"
        return
    first = found.different[0]
    yield f"the first difference: {first.where}, {first.what}"
    rows = [
        {
            "where": one.where,
            "what": one.what,
            f"turn {found.a}": _plain(one.a),
            f"turn {found.b}": _plain(one.b),
        }
        for one in found.different
    ]
    yield table(f"turn {found.a} and turn {found.b}", rows)


def _listing(found: Sequence[ReceiptView], left_out: bool) -> Iterator[str | Table]:
    rows = [
        {
            "receipt": one.receipt_id,
            "of": _address(one),
            "key": one.key,
            "state": one.state,
            "age": span(one.age_s),
            "duplicates": one.duplicates or "",
            "stuck" if one.stuck else "waits for": one.stuck or one.waits_for,
        }
        for one in found
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    yield table("receipts, in the order of acceptance", [{name: row.get(name) for name in columns} for row in rows])
    yield f"the first {_count(found, 'receipt')}; there are more: --limit" if left_out else _count(found, "receipt")


def _planned(found: ReplayPlan) -> Iterator[str]:
    yield f"receipt {found.receipt_id} of {_address(found)}, {under(found.key)}: {found.state}"
    yield _line("verdict", found.verdict)
    for place, one in enumerate(found.blocked_by):
        yield _line("" if place else "blocked by", one.why)
    for place, said in enumerate(found.advice):
        yield _line("" if place else "so", said)


def _asked(found: Sequence[Doubt], now: float) -> Iterator[str]:
    for one in found:
        left = one.due_at - now
        until = f"for another {span(left)}" if left > 0 else f"until {span(-left)} ago"
        yield f"turn {one.turn_id} of {_address(one)} waits for an answer {until}"
        yield _line("did it happen", f"{one.step} with {_plain(one.arguments)}, {one.why}")
        yield _line("key", one.idempotency_key)
        yield _line("say so", resolving(one))
    yield f"{_count(found, 'effect')} in doubt"


def _pictured(found: Checkpoint) -> Iterator[str | Table]:
    yield f"turn {found.turn_id} of {_address(found)}, {under(found.key)}: {found.status}, attempt {found.attempt}"
    yield f"{found.ordinal + 1} edges from {moment(found.created_at)} to {moment(found.updated_at)} (UTC)"
    left_out = {"issued", "tool", "call_key"}
    steps = [{name: _plain(value) for name, value in _fields(one) if name not in left_out} for one in found.steps]
    yield table("steps, in the order of issue", steps)
    yield table("messages", [{name: _plain(value) for name, value in _fields(one)} for one in found.messages])
    if found.doubt is not None:
        yield f"it stands on {found.doubt.step}: turnkeeper explain DB {found.turn_id}"


def _count(found: Sequence[object], what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"


def _line(label: str, said: str) -> str:
    return f"  {label:>13}  {said}"


def _address(found: Explanation | ReceiptView | ReplayPlan | Doubt | Checkpoint) -> Address:
    return Address(found.tenant, found.session_id, found.agent_id)


def _fields(record: msgspec.Struct) -> Iterable[tuple[str, Any]]:
    return ((name, getattr(record, name)) for name in record.__struct_fields__)


def _plain(value: Any) -> Any:
    return dict(_fields(value)) if isinstance(value, msgspec.Struct) else value


# ---------------------------------------------------------------- commands

_db = click.argument("db", type=click.Path(path_type=Path))
_turn = click.IntRange(0, 2**63 - 1)


@click.command("explain")
@_db
@click.argument("turn", type=_turn)
@json_option
def _explain(db: Path, turn: int, as_json: bool) -> None:
    """Say what happened to a TURN, what it waits for, and what would happen next and why."""

    def asked(rows: Rows) -> _Shown:
        found = explain(rows, turn, time.time())
        return _Shown(found, list(_explained(found)))

    _show(db, asked, as_json=as_json)


@click.command("diff")
@_db
@click.argument("a", type=_turn, metavar="TURN")
@click.argument("b", type=_turn, metavar="TURN")
@json_option
def _diff(db: Path, a: int, b: int, as_json: bool) -> None:
    """Compare two turns, a fork with its source say: what is the same, and what differs first."""

    def asked(rows: Rows) -> _Shown:
        found = diff(rows, a, b)
        return _Shown(found, list(_compared(found)))

    _show(db, asked, as_json=as_json)


@click.command("receipts")
@_db
@click.option(
    "--older-than",
    metavar="TIME",
    callback=duration_s,
    help="Only accepted or processing for longer: seconds, or 15m, 12h, 30d.",
)
@click.option("--stuck", is_flag=True, help="Only those that nothing will move as things are.")
@click.option("--duplicated", is_flag=True, help="Only those whose inbound came again; answered ones, too.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=RECEIPTS_MAX, show_default=True, help="The oldest so many."
)
@json_option
def _receipts(db: Path, older_than: float | None, stuck: bool, duplicated: bool, limit: int, as_json: bool) -> None:
    """List the receipts that are not answered yet, with what each waits for, the oldest first."""

    def asked(rows: Rows) -> _Shown:
        found = receipts(
            rows, time.time(), older_than_s=older_than, stuck=stuck, duplicated=duplicated, limit=limit + 1
        )
        left_out = len(found) > limit
        found = found[:limit]
        return _Shown({"receipts": found, "left_out": left_out}, list(_listing(found, left_out)))

    _show(db, asked, as_json=as_json)


@click.command("replay-plan")
@_db
@click.argument("receipt", type=_turn)
@json_option
def _replay_plan(db: Path, receipt: int, as_json: bool) -> None:
    """Say what sending a RECEIPT's work again would mean, without doing anything. A receipt has its turn's number."""

    def asked(rows: Rows) -> _Shown:
        found = plan_replay(rows, receipt, time.time())
        return _Shown(found, list(_planned(found)))

    _show(db, asked, as_json=as_json)


@click.command("doubts")
@_db
@json_option
def _doubts(db: Path, as_json: bool) -> None:
    """List the effects that may have happened, on which turns stand until somebody says."""

    def asked(rows: Rows) -> _Shown:
        with readable("a turn"):
            found = doubts(rows)
        return _Shown({"doubts": found}, list(_asked(found, time.time())))

    _show(db, asked, as_json=as_json)


@click.command("checkpoint")
@_db
@click.argument("turn", type=_turn)
@json_option
def _checkpoint(db: Path, turn: int, as_json: bool) -> None:
    """Show a TURN as committed: steps with arguments and outcomes, messages, what it stands on."""

    def asked(rows: Rows) -> _Shown:
        with readable(f"turn {turn}"):
            found = checkpoint(rows, turn)
        return _Shown(found, list(_pictured(found)))

    _show(db, asked, as_json=as_json)


@click.command("events")
@_db
@click.option("--since", type=_turn, default=0, show_default=True, help="The last offset already seen.")
@click.option("--follow", is_flag=True, help="Go on with what is committed from now on, until interrupted.")
def _events(db: Path, since: int, follow: bool) -> None:
    """Print what happened to checkpoints as JSON lines, in the order of commits; `offset` is where to go on from."""
    with suppress(KeyboardInterrupt) if follow else nullcontext():  # that is how following ends
        for event in _happened(db, since, follow):
            print_json(event)


def _happened(db: Path, since: int, follow: bool) -> Iterator[Event]:
    while True:
        with Reader(db) as reader:
            while page := reader.happened(since, _PAGE):
                since = page[-1].offset
                yield from filter(None, map(event_of, page))
        if not follow or _nobody_reads():
            return
        time.sleep(_POLL_S)


def _nobody_reads() -> bool:
    """Say whether whoever read our output has gone: without a write nobody would notice."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # it is no file
        return False
    poll = select.poll()
    poll.register(output, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


COMMANDS: Final = (_explain, _diff, _receipts, _replay_plan, _doubts, _checkpoint, _events)
"""What `turnkeeper` can be asked about the past."""
