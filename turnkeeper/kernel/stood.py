"""Stood: whether a suspended turn stands on what its own record says."""

from collections.abc import Iterator, Sequence

from turnkeeper.kernel.edge import Edge, Suspended, decode_detail
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import fold_steps
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait, WaitKind

__all__ = ["wrong_stands"]

_NO_PLACE = 0
"""Of a doubt in a store from before there were waits: one of these stood alone, so its step's place did not matter."""


def wrong_stands(row: TurnRow, edges: Sequence[Edge], stands: Sequence[OpenWait]) -> Iterator[str]:
    """Yield in which ways the waits that are stored of a suspended turn are not those that its edges tell of."""
    steps = fold_steps(edges)
    waits = [(step.issued, step.wait) for step in steps.values() if step.open and step.wait is not None]
    asked = [OpenWait(issued, wait.kind, wait.due_at, wait.child_id) for issued, wait in waits]
    doubted = _doubted(edges)
    doubts = [one.issued for one in stands if one.kind == WaitKind.DOUBT]
    for one in asked:
        if one not in stands:
            yield f"waits for {one.kind} {one.issued} until {one.due_at}, and does not stand on that"
    for one in stands:
        if one not in asked and one.kind != WaitKind.DOUBT:
            yield f"stands on {one.kind} {one.issued} until {one.due_at}, of which its edges say nothing"
    if len(doubts) != (doubted is not None):
        yield f"stands on {len(doubts)} doubts, of which its edges tell of {int(doubted is not None)}"
    elif doubted in steps and doubts[0] not in {_NO_PLACE, steps[doubted].issued}:
        yield f"stands on the doubt {doubts[0]}, its edges tell of {steps[doubted].issued}"
    first = min((one.due_at for one in stands), default=None)
    if first != row.due_at:
        yield f"is due at {row.due_at}, the first of what it stands on at {first}"


def _doubted(edges: Sequence[Edge]) -> StepName | None:
    """Return the step whose doubt a suspended turn stands on."""
    details = map(decode_detail, reversed(edges))
    return next((detail.step for detail in details if isinstance(detail, Suspended)), None)
