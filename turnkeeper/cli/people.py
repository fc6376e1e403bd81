"""People: what turns ask them, and what they tell turns: of a store that a runtime has open or not."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.durations import ago
from turnkeeper.cli.operate import ask, by_option, db_argument, print_answer, turn_argument, value_of
from turnkeeper.cli.output import json_option, named, print_json, print_line
from turnkeeper.kernel.address import address
from turnkeeper.kernel.lookback.asking import QUESTIONS_MAX, Question, questions
from turnkeeper.kernel.lookback.past import readable, span
from turnkeeper.kernel.lookback.waits import answering

__all__ = ["COMMANDS"]

_token = click.argument("token")
_reason = click.option("--reason", default="", help="Why; it is recorded.")
_tenant = click.option("--tenant", default="", help="Whose session it is.")


@click.command("approvals")
@db_argument
@click.option("--session", help="Only what turns of this session ask.")
@click.option("--tenant", help="Only what this tenant's turns ask. [default: everybody's]")
@click.option("--after", default="", metavar="TOKEN", help="The last question of the page before.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=QUESTIONS_MAX, show_default=True, help="At most so many."
)
@json_option
def _approvals(db: Path, session: str | None, tenant: str | None, after: str, limit: int, as_json: bool) -> None:
    """List what turns ask people, approvals and escalations, with the token that answers each."""
    now = time.time()
    with Reader(db) as rows, readable("a turn"):
        found = questions(
            rows, now, running=rows.running(), tenant=tenant, session_id=session, after=after, limit=limit
        )
    if as_json:
        print_json({"approvals": found})
        return
    for line in _listed(found, now):
        print_line(named(line, db))
    whose = "all tenants" if tenant is None else f"tenant {tenant!r}"
    print_line(f"{len(found)} question{'' if len(found) == 1 else 's'} to people, of {whose}")
    if len(found) == limit:
        print_line(f"there may be more: --after {found[-1].token}")


def _listed(found: Sequence[Question], now: float) -> Iterator[str]:
    for one in found:
        yield f"turn {one.turn_id} of {one.address} asks for an {one.kind}: {one.what}"
        yield f"    asked {ago(one.asked_at, now)}, for another {span(one.due_at - now)}, {_whom(one)}"
        yield f"    about {one.subject!r}, digest {one.digest}"
        yield f"    {answering(one.kind, one.token, one.digest)}"


def _whom(one: Question) -> str:
    return f"of {' or '.join(one.who)}" if one.who else "of anybody"


@click.command("approve")
@db_argument
@_token
@by_option
@_reason
@click.option("--digest", metavar="HEX", help="Of what you looked at; it must be what is asked about.")
@json_option
def _approve(db: Path, token: str, by: str, reason: str, digest: str | None, as_json: bool) -> None:
    """Approve what TOKEN asks about, once."""
    _tell(db, "approve", {"token": token, "by": by, "reason": reason, "digest": digest}, as_json)


@click.command("deny")
@db_argument
@_token
@by_option
@_reason
@json_option
def _deny(db: Path, token: str, by: str, reason: str, as_json: bool) -> None:
    """Say no to what TOKEN asks about."""
    _tell(db, "deny", {"token": token, "by": by, "reason": reason}, as_json)


@click.command("answer")
@db_argument
@_token
@click.option("--value", metavar="JSON", required=True, help="What turn.escalate returns.")
@by_option
@_reason
@json_option
def _answer(db: Path, token: str, value: str, by: str, reason: str, as_json: bool) -> None:
    """Answer the escalation that TOKEN is of."""
    told = {"token": token, "value": value_of(value, "--value"), "by": by, "reason": reason}
    _tell(db, "answer", told, as_json)


def _tell(db: Path, verb: str, fields: dict[str, Any], as_json: bool) -> None:
    answered = ask(db, verb, fields)
    by = f" by {answered['by']}" if answered["by"] else ""
    print_answer(answered, f"turn {answered['turn_id']}: {answered['outcome']}{by}; it goes on", as_json)


@click.command("signal")
@db_argument
@click.argument("session")
@click.argument("agent")
@click.argument("name")
@click.option("--payload", metavar="JSON", default="null", help="What it brings.")
@click.option("--key", help="Idempotency key: sent again, it is the same signal.")
@_tenant
@json_option
def _signal(  # noqa: PLR0913, PLR0917 - an argument an option
    db: Path, session: str, agent: str, name: str, payload: str, key: str | None, tenant: str, as_json: bool
) -> None:
    """Send the signal NAME to an AGENT of a SESSION; it is kept until a turn takes it."""
    to = address(tenant, session, agent)
    fields = {"session_id": session, "agent_id": agent, "name": name, "key": key, "tenant": tenant}
    answered = ask(db, "signal", fields | {"payload": value_of(payload, "--payload")})
    print_answer(answered, f"{to}: signal {name!r} {'sent' if answered['new'] else 'sent before'}", as_json)


@click.command("cancel")
@db_argument
@turn_argument
@by_option
@_reason
@json_option
def _cancel(db: Path, turn: int, by: str, reason: str, as_json: bool) -> None:
    """End TURN as cancelled, the turns it waits for first; one that has ended stays as it is."""
    answered = ask(db, "cancel", {"turn_id": turn, "by": by, "reason": reason})
    why = f": {answered['why']}" if answered["why"] else ""
    print_answer(answered, f"turn {turn}: {answered['outcome']}{why}", as_json)


COMMANDS: Final = (_approvals, _approve, _deny, _answer, _signal, _cancel)
"""What `turnkeeper` can tell to turns that wait."""
