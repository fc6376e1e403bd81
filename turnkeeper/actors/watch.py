"""The watch on one run: it stops a run that is past its limits, insists, and gives up on one that would not stop."""

from collections.abc import Callable
from math import inf

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.places import stands_at
from turnkeeper.kernel.verdict import Stop

__all__ = ["Watch"]

_INSIST_S = 1.0
"""How often a handler that swallows its cancellation is cancelled again."""


class Watch:
    """The limits of one run, behind one timer.

    The timer stands at the earliest moment at which something may be due. Progress is a number in the turn and moves no
    timer: when it rings, the watch looks, and sets it anew where the run has got on meanwhile.
    """

    __slots__ = ("_ends_s", "_give_up", "_idle_s", "_node", "_patient_until_s", "_turn")

    def __init__(self, node: Node, turn: OpenTurn, limit_s: float, idle_s: float, give_up: Callable[[], None]) -> None:
        """Watch a run that has just started. `give_up` is called where it would not stop within `insist_s`."""
        self._node = node
        self._turn = turn
        self._ends_s = turn.started_s + limit_s
        self._idle_s = idle_s or inf
        self._patient_until_s = inf
        self._give_up = give_up

    def begin(self) -> None:
        """Set the timer."""
        self._set(min(self._ends_s, self._turn.progress_s + self._idle_s))

    def shorten(self, ran_s: float) -> None:
        """Take off what the turn has run before, in runs that ended in its suspension."""
        self._ends_s -= ran_s
        self._turn.disarm()
        self.begin()

    def insist(self) -> None:
        """Cancel a run that was told to stop again and again, and give it up in the end."""
        now_s = self._node.loop.time()
        self._patient_until_s = now_s + self._node.settings.insist_s
        self._turn.disarm()
        self._set(min(now_s + _INSIST_S, self._patient_until_s))

    def _set(self, at_s: float) -> None:
        self._turn.timer = self._node.loop.call_at(at_s, self._look)

    def _look(self) -> None:
        turn, now_s = self._turn, self._node.loop.time()
        if turn.stop is not None:
            self._press(now_s)
        elif now_s >= self._ends_s:
            turn.halt(Stop.DEADLINE)
        elif now_s >= turn.progress_s + self._idle_s:
            self._say_stuck(now_s)
            turn.halt(Stop.STUCK)
        else:
            self.begin()

    def _press(self, now_s: float) -> None:
        if now_s >= self._patient_until_s:
            self._give_up()
            return
        if self._turn.task is not None:
            self._turn.task.cancel()
        self._set(min(now_s + _INSIST_S, self._patient_until_s))

    def _say_stuck(self, now_s: float) -> None:
        turn = self._turn
        at = stands_at(turn.task) if turn.task is not None else ""
        idle_s = round(now_s - turn.progress_s, 3)
        self._node.log.warning("turn.stuck", turn_id=turn.row.turn_id, idle_s=idle_s, at=at)
