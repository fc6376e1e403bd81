"""Asking: what people can answer now, approvals and escalations, from the rows alone."""

from collections.abc import Collection
from typing import Any, Final

import msgspec

from turnkeeper.kernel.address import check_name
from turnkeeper.kernel.errors import ContractViolation, StorageFailed
from turnkeeper.kernel.lookback.past import Past, Stand, past_of, readable
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.wait import HUMAN, WaitKind

__all__ = ["QUESTIONS_MAX", "Question", "place_of", "questions"]

QUESTIONS_MAX: Final = 100
"""Questions in one answer: more than a page shows."""

_FIRST: Final = (-1, -1)

_LIMIT_MAX: Final = 2**63 - 1

_DIGITS_MAX: Final = 18
"""Of a number that fits a row."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn asks people, and nobody has answered.

    `Runtime.approve`, `deny` and, for an escalation, `answer` take the token, until `due_at`. Times are wall time, s.

    Args:
        kind: approval or escalation.
        what: is to be done; an escalation's goal.
        subject: exactly what is to be approved; an escalation's reason, summary and goal.
        digest: of the subject, in hexadecimal digits.
        who: may answer; empty for everybody.
        issued: the place of its step among the turn's.
    """

    turn_id: int
    tenant: str
    session_id: str
    agent_id: str
    token: str
    kind: str
    what: str
    subject: Any
    digest: str
    who: list[str]
    asked_at: float
    due_at: float
    issued: int

    @property
    def address(self) -> Address:
        """Return where the turn is."""
        return Address(self.tenant, self.session_id, self.agent_id)


def questions(  # noqa: PLR0913 - each is said by its name
    rows: Rows,
    now: float,
    *,
    running: Collection[int],
    tenant: str | None = None,
    session_id: str | None = None,
    after: str = "",
    limit: int = QUESTIONS_MAX,
) -> list[Question]:
    """Return what people can answer at a moment, in the order of acceptance of the turns, and of each in its own.

    That order stays as it is while turns run and are suspended again, so pages have no gaps. A turn that cannot be
    read is left out; `audit` tells of it.

    Args:
        rows: where it is stored.
        now: the moment (wall time, s); what is over by then is left out.
        running: the turns that run now and may ask, too.
        tenant: whose they are; None means everybody's.
        session_id: only what turns of this session ask; None means of all.
        after: the token of the last question of the page before.
        limit: at most so many.

    Raises:
        ContractViolation: `after` is no token, or `limit` no number.
        InvalidName: that is nobody's tenant, or session.
    """
    place = _FIRST if after == "" else place_of(after)
    if place is None:
        raise ContractViolation("after", "must be the token of a question")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= _LIMIT_MAX:
        raise ContractViolation("limit", f"must be a whole number from 0 to {_LIMIT_MAX}, not {limit!r}")
    if tenant is not None and tenant != "":
        check_name("tenant", tenant)
    if session_id is not None:
        check_name("session_id", session_id)
    found: list[Question] = []
    while len(found) < limit:
        page = _page(rows, place, limit, tenant, session_id)
        last = page[-1] if len(page) == limit else None
        beside = [turn_id for turn_id in running if last is None or turn_id <= last[0]]
        asked = [one for turn_id in {turn_id for turn_id, _ in page} | set(beside) for one in _of(rows, turn_id, now)]
        asked = [one for one in asked if tenant in {None, one.tenant} and session_id in {None, one.session_id}]
        found += sorted((one for one in asked if _between(one, place, last)), key=_place)
        if last is None:
            break
        place = last
    return found[:limit]


def _page(
    rows: Rows, after: tuple[int, int], limit: int, tenant: str | None, session_id: str | None
) -> list[tuple[int, int]]:
    """Return where the next questions of suspended turns are."""
    found = (rows.waits(kind, after, limit, tenant=tenant, session_id=session_id) for kind in sorted(HUMAN))
    return sorted(place for of_kind in found for place in of_kind)[:limit]


def _between(one: Question, after: tuple[int, int], last: tuple[int, int] | None) -> bool:
    return after < _place(one) and (last is None or _place(one) <= last)


def _place(one: Question) -> tuple[int, int]:
    return one.turn_id, one.issued


def place_of(token: object) -> tuple[int, int] | None:
    """Return the turn that a token is of, and the place of its step there; None where it is no token."""
    if not isinstance(token, str):
        return None
    turn, _, rest = token.partition(".")
    issued, _, secret = rest.partition(".")
    numbers = (turn, issued)
    if not secret or not all(one.isascii() and one.isdigit() and len(one) <= _DIGITS_MAX for one in numbers):
        return None
    return int(turn), int(issued)


def _of(rows: Rows, turn_id: int, now: float) -> list[Question]:
    """Return what a turn asks people; nothing where it cannot be read, which the audit tells."""
    try:
        past = past_of(rows, turn_id)
        with readable(f"turn {turn_id}"):
            stands = [one for one in past.stands() if one.wait.kind in HUMAN and one.wait.due_at > now]
            return [_question(past, stand) for stand in stands]
    except StorageFailed:
        return []


def _question(past: Past, stand: Stand) -> Question:
    address, (step, wait, asked_at) = past.address, stand
    said = msgspec.msgpack.decode(step.arguments)
    approval = wait.kind == WaitKind.APPROVAL
    packet = {name: said[name] for name in ("reason", "summary", "goal") if not approval}
    return Question(
        turn_id=past.row.turn_id,
        tenant=address.tenant,
        session_id=address.session_id,
        agent_id=address.agent_id,
        token=wait.token,
        kind=wait.kind,
        what=said["what"] if approval else said["goal"],
        subject=said["subject"] if approval else packet,
        digest=wait.digest.hex(),
        who=wait.who,
        asked_at=asked_at,
        due_at=wait.due_at,
        issued=step.issued,
    )
