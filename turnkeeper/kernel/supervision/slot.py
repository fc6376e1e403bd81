"""The slot machine: one slot a child, so that however many ask, and however ends and starts cross, one runs."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

__all__ = ["TRANSITIONS", "Action", "Event", "Slot", "SlotState", "diagram"]


class SlotState(StrEnum):
    """Where a slot stands."""

    IDLE = "idle"  # nothing is there
    SPAWNING = "spawning"  # an incarnation is on its way up
    RUNNING = "running"  # it is up
    STOPPING = "stopping"  # it is on its way down


class Event(StrEnum):
    """What happens to a slot."""

    ENSURE = "ensure"  # somebody wants the child to run
    STOP = "stop"  # somebody wants it not to
    STARTED = "started"  # its incarnation is up
    EXITED = "exited"  # its incarnation is gone, or could not be started


class Action(StrEnum):
    """What is to be done about it."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"  # also what is still on its way up


_IDLE, _SPAWNING, _RUNNING, _STOPPING = SlotState
_ENSURE, _STOP, _STARTED, _EXITED = Event

TRANSITIONS: Final[Mapping[tuple[SlotState, Event], tuple[SlotState, Action]]] = MappingProxyType(
    {
        (_IDLE, _ENSURE): (_SPAWNING, Action.START),
        (_IDLE, _STOP): (_IDLE, Action.NOTHING),
        (_SPAWNING, _ENSURE): (_SPAWNING, Action.NOTHING),
        (_SPAWNING, _STOP): (_STOPPING, Action.STOP),
        (_SPAWNING, _STARTED): (_RUNNING, Action.NOTHING),
        (_SPAWNING, _EXITED): (_IDLE, Action.NOTHING),
        (_RUNNING, _ENSURE): (_RUNNING, Action.NOTHING),
        (_RUNNING, _STOP): (_STOPPING, Action.STOP),
        (_RUNNING, _EXITED): (_IDLE, Action.NOTHING),
        (_STOPPING, _ENSURE): (_STOPPING, Action.NOTHING),
        (_STOPPING, _STOP): (_STOPPING, Action.NOTHING),
        (_STOPPING, _STARTED): (_STOPPING, Action.NOTHING),
        (_STOPPING, _EXITED): (_IDLE, Action.NOTHING),
    }
)
"""Every pair that can be; what is not here comes from an incarnation that is gone, and counts for nothing."""


class Slot(msgspec.Struct, frozen=True, gc=False):
    """One child's place.

    Args:
        state: where it stands.
        incarnation: the number of its last start; 0 before the first.
        wanted: whether the child is to run once what is under way is over. A stop during spawning wins; a wish that
            comes while it stops is kept, and an idle slot that is still wanted is to be asked for once more.
    """

    state: SlotState = SlotState.IDLE
    incarnation: int = 0
    wanted: bool = False

    def after(self, event: Event, incarnation: int | None = None) -> "tuple[Slot, Action]":
        """Return the slot after an event, and what is to be done.

        Args:
            event: what happened.
            incarnation: whose start or end this is; that of another than the slot's own counts for nothing.
        """
        if incarnation is not None and incarnation != self.incarnation:
            return self, Action.NOTHING
        state, action = TRANSITIONS.get((self.state, event), (self.state, Action.NOTHING))
        number = self.incarnation + (action is Action.START)
        if event in {Event.ENSURE, Event.STOP}:
            wanted = event is Event.ENSURE
        else:  # an end by itself ends the wish as well: whether it comes back is its supervisor's to say
            wanted = self.wanted and (event is Event.STARTED or self.state is SlotState.STOPPING)
        return Slot(state, number, wanted), action


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    for (state, event), (after, action) in TRANSITIONS.items():
        if after is not state or action is not Action.NOTHING:
            done = f" / {action}" if action is not Action.NOTHING else ""
            lines.append(f"    {state} --> {after}: {event}{done}")
    return "\n".join(lines)
