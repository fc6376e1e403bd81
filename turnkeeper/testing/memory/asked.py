"""Asked: what a disk knows of turns that wait, of their children, and of signals."""

from collections.abc import Awaitable, Callable, Iterator

from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import DueTurn, Signal
from turnkeeper.kernel.records import SignalSent
from turnkeeper.kernel.turn import TERMINAL, TurnState
from turnkeeper.kernel.wait import OpenWait, WaitKind
from turnkeeper.testing.memory.disk import Disk, Turn

__all__ = ["MemoryWaiting"]


class MemoryWaiting:
    """Answers from the tables; see `kernel.ports.Waiting`."""

    __slots__ = ("_disk", "_ready")

    def __init__(self, disk: Disk, ready: Callable[[], Awaitable[None]]) -> None:
        """Answer for a store: `ready` returns once it may be read."""
        self._disk = disk
        self._ready = ready

    async def live_turns_in(self, tenant: str, session_id: str) -> list[int]:
        """Return the ids of a session's live turns."""
        await self._ready()
        return [turn.turn_id for turn in self._live() if self._address(turn)[:2] == (tenant, session_id)]

    async def live_children(self, turn_id: int) -> list[tuple[int, Address]]:
        """Return the live turns that a turn has asked for."""
        await self._ready()
        return [(turn.turn_id, self._address(turn)) for turn in self._live() if turn.parent_id == turn_id]

    async def address_of(self, turn_id: int) -> Address | None:
        """Return where a turn is."""
        await self._ready()
        turn = self._disk.turns.get(turn_id)
        return self._address(turn) if turn is not None else None

    async def suspended_count(self) -> int:
        """Return how many turns are suspended."""
        await self._ready()
        return sum(turn.state == TurnState.SUSPENDED for turn in self._disk.turns.values())

    async def due_turns(self, after: tuple[float, int], now: float, limit: int) -> list[DueTurn]:
        """Return suspended turns whose deadline has come."""
        await self._ready()
        return [due for due in self._due() if due[:2] > after and due.due_at <= now][:limit]

    async def next_due(self, after: float) -> float | None:
        """Return the first deadline of a suspended turn after a moment."""
        await self._ready()
        return next((due.due_at for due in self._due() if due.due_at > after), None)

    async def waits(self, turn_id: int) -> list[OpenWait]:
        """Return what a suspended turn stands on."""
        await self._ready()
        turns = self._disk.turns
        return [
            wait._replace(child=self._address(turns[wait.child_id])) if wait.child_id is not None else wait
            for wait in self._disk.rows().stands(turn_id)
        ]

    async def answered_children(self) -> list[tuple[int, int]]:
        """Return child turns that have ended while their parents stand on them still."""
        await self._ready()
        waits = [(wait.child_id, wait.turn_id) for wait in self._disk.stood() if wait.child_id is not None]
        return sorted((child, parent) for child, parent in waits if self._ended(child))

    async def orphaned_children(self) -> list[int]:
        """Return live child turns whose parents have ended."""
        await self._ready()
        return [turn.turn_id for turn in self._live() if turn.parent_id is not None and self._ended(turn.parent_id)]

    async def ending_turns(self) -> list[int]:
        """Return suspended turns that stand on child turns and about which a policy was resolved."""
        await self._ready()
        disk = self._disk
        return [
            turn_id
            for turn_id, waits in sorted(disk.waits.items())
            if any(wait.child_id is not None for wait in waits.values())
            and any(edge.edge.kind == "policy_resolved" for edge in disk.edges[turn_id].values())
        ]

    async def signalled_turns(self) -> list[int]:
        """Return suspended turns that stand on a signal while their actors have some that nobody has taken."""
        await self._ready()
        turns, signalled = self._disk.turns, {sent.actor_id for sent in self._waiting()}
        standing = {wait.turn_id for wait in self._disk.stood() if wait.kind == WaitKind.SIGNAL}
        return sorted(turn_id for turn_id in standing if turns[turn_id].actor_id in signalled)

    async def waiting_signal(self, actor_id: int, name: str) -> tuple[int, bytes] | None:
        """Return the oldest signal of a name that no turn of the actor has taken."""
        await self._ready()
        found = ((one.signal_id, one.body) for one in self._waiting() if (one.actor_id, one.name) == (actor_id, name))
        return min(found, default=None)

    async def signal(self, actor_id: int, key: str) -> Signal | None:
        """Return the signal that a key stands for."""
        await self._ready()
        for one, _, retired in self._disk.signals.values():
            if (one.actor_id, one.key) == (actor_id, key) and not retired:
                return Signal(one.signal_id, one.name, one.body, one.expires_at)
        return None

    async def signals_waiting(self, actor_id: int) -> int:
        """Return how many signals no turn of the actor has taken."""
        await self._ready()
        return sum(one.actor_id == actor_id for one in self._waiting())

    async def handoffs(self, tenant: str, session_id: str, from_agent: str, to_agent: str) -> tuple[int, float | None]:
        """Return how many handoffs a session has had, and when the last one was from one agent to another."""
        await self._ready()
        handoffs, session = self._disk.handoffs.values(), (tenant, session_id)
        of_session = [one for one in handoffs if (one.tenant, one.session_id) == session]
        between = [one.at for one in of_session if (one.from_agent, one.to_agent) == (from_agent, to_agent)]
        return len(of_session), max(between, default=None)

    def _address(self, turn: Turn) -> Address:
        return self._disk.actors[turn.actor_id]

    def _live(self) -> Iterator[Turn]:
        return (turn for _, turn in sorted(self._disk.turns.items()) if turn.state not in TERMINAL)

    def _ended(self, turn_id: int) -> bool:
        turn = self._disk.turns.get(turn_id)
        return turn is not None and turn.state in TERMINAL

    def _due(self) -> list[DueTurn]:
        """Return the suspended turns in the order of their deadlines."""
        return sorted(
            DueTurn(turn.due_at, turn.turn_id, self._address(turn))
            for turn in self._disk.turns.values()
            if turn.state == TurnState.SUSPENDED and turn.due_at is not None
        )

    def _waiting(self) -> Iterator[SignalSent]:
        return (sent for sent, taken_by, _ in self._disk.signals.values() if taken_by is None)
