"""Checks: one line at the end of a test, whatever the store is."""

from pathlib import Path

from turnkeeper.actors.store.audit import audit
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.watched import WatchedRuntime

__all__ = ["assert_no_violations"]


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
