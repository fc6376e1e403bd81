"""Waits: what a turn can stand on, how each ends, and what becomes of it when nobody answers in time."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from turnkeeper.kernel.names import Address

__all__ = ["EXPIRED", "HUMAN", "Approval", "AtDeadline", "OpenWait", "Outcome", "WaitKind"]


class WaitKind(StrEnum):
    """What is waited for."""

    APPROVAL = "approval"  # somebody who may say yes or no
    ESCALATION = "escalation"  # somebody who takes the matter on, and answers
    SIGNAL = "signal"  # a named message from outside
    TIMER = "timer"  # a moment
    CHILD = "child"  # a child turn, whose deliverable comes back
    HANDOFF = "handoff"  # a child turn, whose deliverable becomes the parent's
    DOUBT = "doubt"  # somebody who knows what became of an effect


HUMAN: Final = frozenset({WaitKind.APPROVAL, WaitKind.ESCALATION})
"""What people answer, by its token."""


class Outcome(StrEnum):
    """What a wait came to."""

    APPROVED = "approved"
    DENIED = "denied"
    ANSWERED = "answered"  # with a value
    ELAPSED = "elapsed"  # the moment came
    EXPIRED = "expired"  # nobody answered in time
    COMPLETED = "completed"  # so did the child turn
    FAILED = "failed"
    CANCELLED = "cancelled"


class AtDeadline(StrEnum):
    """What an approval comes to that nobody has answered."""

    DENY = "deny"  # as if denied
    FAIL = "fail"  # turn.approval raises WaitExpired
    ESCALATE = "escalate"  # others are asked, once; then it is denied


EXPIRED: Final[Mapping[WaitKind, Outcome]] = MappingProxyType(
    {
        WaitKind.APPROVAL: Outcome.EXPIRED,
        WaitKind.ESCALATION: Outcome.EXPIRED,
        WaitKind.SIGNAL: Outcome.EXPIRED,
        WaitKind.TIMER: Outcome.ELAPSED,
        WaitKind.CHILD: Outcome.EXPIRED,
        WaitKind.HANDOFF: Outcome.EXPIRED,
    }
)
"""What a wait comes to when its time is over. A doubt's turn fails: there is no answer to go on with."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """Who approved, why, and when (wall time, s); `digest` is of exactly what, in hexadecimal digits."""

    by: str
    reason: str
    at: float
    digest: str


class OpenWait(NamedTuple):
    """What a suspended turn stands on. `issued` is its step's place among the turn's; `child` is where its turn is."""

    issued: int
    kind: str
    due_at: float
    child_id: int | None = None
    child: Address | None = None
