"""Waiting in memory: what suspended turns stand on, signals and handoffs, as one transaction writes them."""

from turnkeeper.kernel import records
from turnkeeper.kernel.errors import KeyTaken, VersionConflict
from turnkeeper.kernel.rows import SignalRow
from turnkeeper.kernel.turn import TurnState
from turnkeeper.kernel.wait import WaitKind
from turnkeeper.testing.memory.disk import Disk, Turn
from turnkeeper.testing.memory.fitting import require, require_times
from turnkeeper.testing.memory.undo import Undo

__all__ = ["Waiting"]

_KINDS = frozenset(WaitKind)
_FOR_A_CHILD = frozenset({WaitKind.CHILD, WaitKind.HANDOFF})


class Waiting(Undo):
    """The part of a transaction that writes about waiting."""

    __slots__ = ()

    _disk: Disk

    def wait_stood(self, record: records.WaitStood) -> None:
        """Let a suspended turn stand on something."""
        turn = self._disk.turns.get(record.turn_id)
        if turn is None or (turn.version, turn.state) != (record.version, TurnState.SUSPENDED):
            raise VersionConflict(record.turn_id, record.version)
        require_times(record, record.due_at)
        require(record.kind in _KINDS, record, f"{record.kind} is nothing to wait for")
        require((record.kind in _FOR_A_CHILD) == (record.child_id is not None), record, "whose child is waited for?")
        require(record.child_id is None or record.child_id in self._disk.turns, record, "there is no such child")
        if record.turn_id not in self._disk.waits:
            self._put(self._disk.waits, record.turn_id, {})
        of_turn = self._disk.waits[record.turn_id]
        require(record.issued not in of_turn, record, "the turn stands on that already")
        self._put(of_turn, record.issued, record)

    def _stands_no_more(self, turn: Turn, after: str) -> None:
        """Let the waits of a turn go that is suspended no more."""
        if turn.state == TurnState.SUSPENDED != after and turn.turn_id in self._disk.waits:
            self._drop(self._disk.waits, turn.turn_id)

    def signal_sent(self, record: records.SignalSent) -> None:
        """Keep a signal."""
        require_times(record, record.at, record.expires_at)
        for other, _, retired in self._disk.signals.values():
            same_key = not retired and (record.actor_id, record.key) == (other.actor_id, other.key)
            if record.signal_id == other.signal_id or same_key:
                raise KeyTaken(record.key)
        require(record.actor_id in self._disk.actors, record, "there is no such actor")
        self._put(self._disk.signals, record.signal_id, SignalRow(record, None))

    def signal_taken(self, record: records.SignalTaken) -> None:
        """Give a signal to a turn, once."""
        signal = self._disk.signals.get(record.signal_id)
        if signal is None or signal.taken_by is not None:
            raise VersionConflict(record.signal_id, 0)
        self._put(self._disk.signals, record.signal_id, signal._replace(taken_by=record.taken_by))

    def signal_retired(self, record: records.SignalRetired) -> None:
        """Free the key of a signal, once."""
        signal = self._disk.signals.get(record.signal_id)
        if signal is None or signal.retired:
            raise VersionConflict(record.signal_id, 0)
        self._put(self._disk.signals, record.signal_id, signal._replace(retired=True))

    def handed_off(self, record: records.HandedOff) -> None:
        """Count a handoff."""
        require_times(record, record.at)
        require(record.turn_id not in self._disk.handoffs, record, "the turn was handed on already")
        self._put(self._disk.handoffs, record.turn_id, record)
