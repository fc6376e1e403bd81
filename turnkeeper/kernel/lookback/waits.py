"""Waits in words: what a turn stands on, what becomes of it, and what it came to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from turnkeeper.kernel.edge import Answer, Wait
from turnkeeper.kernel.lookback.past import Stand, cut, span
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.step import StepRecord
from turnkeeper.kernel.wait import Outcome, WaitKind

__all__ = ["WAIT", "WAITING", "answer_of", "answering", "outcome_of", "waited_for", "words_of"]

WAIT: Final = "wait"
"""What stands in the place of a wait's effect."""

WAITING: Final = "waiting"
"""The status of a wait that has no answer yet."""

_answers: Final = msgspec.msgpack.Decoder(Answer)

_COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        WaitKind.APPROVAL: "turnkeeper approve DB {token} --digest {digest}, or turnkeeper deny DB {token}",
        WaitKind.ESCALATION: "turnkeeper answer DB {token} --value JSON",
    }
)
"""How people answer; DB stands for the store."""


def waited_for(step: StepRecord, wait: Wait) -> str:  # noqa: PLR0911 - one line a kind
    """Return what a wait is for."""
    said = msgspec.msgpack.decode(step.arguments) if step.arguments else {}
    match wait.kind:
        case WaitKind.APPROVAL:
            return f"an approval of {cut(str(said.get('what')))!r}{_from(wait)}"
        case WaitKind.ESCALATION:
            return f"an answer to the escalation {cut(str(said.get('goal')))!r}{_from(wait)}"
        case WaitKind.SIGNAL:
            return f"the signal {cut(wait.name)!r}"
        case WaitKind.TIMER:
            return "its time"
        case WaitKind.HANDOFF:
            return f"turn {wait.child_id} of {Address(*wait.to)}, to which it was handed on"
        case WaitKind.CHILD:
            return f"turn {wait.child_id} of {Address(*wait.to)}"
        case kind:
            return cut(kind)


def _from(wait: Wait) -> str:
    return f" by {' or '.join(map(cut, wait.who))}" if wait.who else " by anybody"


def words_of(stand: Stand, now: float) -> str:
    """Return what a turn stands on at a moment (wall time, s), since when, and until when."""
    left = stand.wait.due_at - now
    until = f"for another {span(left)}" if left > 0 else f"until {span(-left)} ago"
    return f"{waited_for(stand.step, stand.wait)} ({stand.step.name}), for {span(now - stand.since)} now and {until}"


def answering(kind: str, token: str, digest: str) -> str | None:
    """Return the command by which people answer a wait; None where it is not theirs to answer."""
    command = _COMMANDS.get(kind)
    return None if command is None else command.format(token=token, digest=digest)


def outcome_of(step: StepRecord) -> str:
    """Return what became of a wait that has its answer: who said what, and why."""
    answer = _answers.decode(step.result)
    by = f" by {cut(answer.by)}" if answer.by else ""
    why = f" ({cut(answer.reason)})" if answer.reason else ""
    said = "nobody answered in time" if answer.outcome == Outcome.EXPIRED else f"{cut(answer.outcome)}{by}{why}"
    return f"waited for {waited_for(step, step.wait)}: {said}" if step.wait is not None else said


def answer_of(step: StepRecord) -> dict[str, Any]:
    """Return the answer of a wait as data."""
    answer = _answers.decode(step.result)
    facts = {name: getattr(answer, name) for name in ("outcome", "at", "by", "reason")}
    return facts | {"value": msgspec.msgpack.decode(answer.body)}
