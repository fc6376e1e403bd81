"""Views: a supervision tree as it stands now, in plain data."""

from typing import Protocol, runtime_checkable

import msgspec

from turnkeeper.kernel.supervision.desired import Desired

__all__ = ["ChildView", "Look", "Looked", "Viewed"]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a child says of itself; None where it has no such thing. Ages in seconds, `pid` of a process.

    Of an agent, `running` turns and the one of them that has not got on for longest.
    """

    mailbox_len: int | None = None
    running: int | None = None
    beat_age_s: float | None = None
    progress_age_s: float | None = None
    health: str | None = None
    pid: int | None = None


@runtime_checkable
class Looked(Protocol):
    """A child that says something of itself."""

    def look(self) -> Look:
        """Return what is known now; changes nothing."""
        ...


class ChildView(msgspec.Struct, frozen=True, kw_only=True):
    """One child, and what is under it, as `Supervisor.view` found it.

    Args:
        name: among its siblings; the names from the root on are its path.
        kind: what it is: `supervisor`, or the name of the child's type.
        state: of its slot: idle, spawning, running, stopping.
        desired: what is wanted of it: running, paused, stopped, quarantined.
        incarnation: how often it has been started.
        restarts: within its window, now.
        strategy: a supervisor's.
        why: how it last ended by itself; empty for not at all.
        look: what it says of itself.
        children: a supervisor's, in the order of their starts.
        left_out: how many of its children are not shown.
        starts_in_s: until it is started again, where a restart waits for its pause.
    """

    name: str
    kind: str
    state: str
    desired: str = Desired.RUNNING
    incarnation: int = 0
    restarts: int = 0
    strategy: str = ""
    why: str = ""
    look: Look | None = None
    children: "list[ChildView]" = []
    left_out: int = 0
    starts_in_s: float | None = None


@runtime_checkable
class Viewed(Protocol):
    """A child with others under it."""

    def view(self, name: str, *, children_max: int) -> ChildView:
        """Return what it and all under it are doing now; of very many children the first `children_max`."""
        ...
