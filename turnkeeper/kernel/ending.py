"""Ending: how a turn ends that somebody wants to end, or that was handed on."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeGuard

from turnkeeper.kernel.edge import Detail, EdgeKind, Failure, PolicyResolved, encode_failure
from turnkeeper.kernel.lifecycle import Change, end
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import Outcome

__all__ = ["HANDED_OVER", "REQUESTS", "cancelled", "is_request"]

REQUESTS: Final[Mapping[str, str]] = MappingProxyType({"cancel": "Cancelled", "interrupt": "Interrupted"})
"""The policies by which a turn is to end, and as what its deliverable says so."""

HANDED_OVER: Final[Mapping[str, EdgeKind]] = MappingProxyType(
    {
        Outcome.COMPLETED: EdgeKind.TURN_COMPLETED,
        Outcome.FAILED: EdgeKind.TURN_FAILED,
        Outcome.CANCELLED: EdgeKind.TURN_CANCELLED,
    }
)
"""How a turn ends that was handed on: as the turn that took it."""


def is_request(detail: Detail | None) -> TypeGuard[PolicyResolved]:
    """Say whether an edge's detail is somebody's wish that the turn end."""
    return isinstance(detail, PolicyResolved) and detail.policy in REQUESTS


def cancelled(row: TurnRow, request: PolicyResolved, dropped: Sequence[str], at: float) -> Change:
    """End a turn because somebody wants that; its deliverable says who, why, and which steps were dropped."""
    said = [
        f"by {request.by}" if request.by else "",
        request.reason,
        f"dropped {', '.join(dropped)}" if dropped else "",
    ]
    failure = Failure(REQUESTS[request.policy], "; ".join(part for part in said if part), recoverable=False)
    return end(row, EdgeKind.TURN_CANCELLED, encode_failure(failure), at)
