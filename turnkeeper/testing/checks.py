"""Checks: one line at the end of a test, whatever the store is."""

from pathlib import Path

from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.step import StepStatus, fold_steps
from turnkeeper.kernel.turn import TurnState
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.watched import WatchedRuntime

__all__ = ["assert_no_violations", "unsettled_steps"]


def assert_no_violations(checked: Runtime | str | Path) -> None:
    """Check every invariant of the contract on what a runtime has stored, while it runs or after it has closed.

    In a simulated world this also compares with what clients were told; there, the oracles have watched every
    commit already.

    Args:
        checked: a runtime, in any world or on a file; or the path of a store's file.

    Raises:
        Violated: something may not be; names the rule, the place and what was found, one line each.
        StorageFailed: the file is no store, or cannot be read.
    """
    if isinstance(checked, WatchedRuntime):
        checked.world.check()
        return
    path = checked.path if isinstance(checked, Runtime) else checked
    found = audit(path).violations
    if found:
        lines = "\n".join(f"{violation.where}: {violation.what} ({violation.rule})" for violation in found)
        raise Violated(found[0].rule, lines)


def unsettled_steps(rows: Rows) -> list[str]:
    """Return the steps of completed turns that have no outcome on record.

    Where handlers wait for every step and every doubt is settled, as in the built-in scenarios, there are none.
    """
    found: list[str] = []
    for session in rows.sessions():
        for turn in rows.turns(session.actor_id):
            if turn.row.state == TurnState.COMPLETED:
                steps = fold_steps(edge for _, edge in rows.edges(turn.row.turn_id)).values()
                open_ = [step for step in steps if step.status in {StepStatus.INTENDED, StepStatus.UNKNOWN}]
                found += [f"turn {turn.row.turn_id}: {step.name} is {step.status}" for step in open_]
    return found
