"""Waiting: what the file knows of turns that wait, of their children, and of signals."""

from collections.abc import Awaitable, Callable
from typing import Any

from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import DueTurn, Signal
from turnkeeper.kernel.wait import OpenWait

__all__ = ["SqliteWaiting"]


class SqliteWaiting:
    """Answers by the statements in `queries.sql`; see `kernel.ports.Waiting`."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[..., Awaitable[list[Any]]]) -> None:
        """Read by this: a statement's name and its parameters."""
        self._read = read

    async def live_turns_in(self, tenant: str, session_id: str) -> list[int]:
        """Return the ids of a session's live turns."""
        return [turn_id for (turn_id,) in await self._read("live_turns_in_session", tenant, session_id)]

    async def live_children(self, turn_id: int) -> list[tuple[int, Address]]:
        """Return the live turns that a turn has asked for."""
        return [(row[0], Address(*row[1:])) for row in await self._read("live_children_of", turn_id)]

    async def address_of(self, turn_id: int) -> Address | None:
        """Return where a turn is."""
        found = await self._read("address_of_turn", turn_id)
        return Address(*found[0]) if found else None

    async def suspended_count(self) -> int:
        """Return how many turns are suspended."""
        return int((await self._read("suspended_count"))[0][0])

    async def due_turns(self, after: tuple[float, int], now: float, limit: int) -> list[DueTurn]:
        """Return suspended turns whose deadline has come."""
        return [DueTurn(row[0], row[1], Address(*row[2:])) for row in await self._read("due_turns", *after, now, limit)]

    async def next_due(self, after: float) -> float | None:
        """Return the first deadline of a suspended turn after a moment."""
        return (await self._read("next_due", after))[0][0]  # type: ignore[no-any-return]

    async def waits(self, turn_id: int) -> list[OpenWait]:
        """Return what a suspended turn stands on."""
        found = await self._read("waits_of", turn_id)
        return [OpenWait(*[*row[:4], Address(*row[4:]) if row[4] is not None else None]) for row in found]

    async def answered_children(self) -> list[tuple[int, int]]:
        """Return child turns that have ended while their parents stand on them still."""
        return await self._read("answered_children")

    async def orphaned_children(self) -> list[int]:
        """Return live child turns whose parents have ended."""
        return [child_id for (child_id,) in await self._read("orphaned_children")]

    async def ending_turns(self) -> list[int]:
        """Return suspended turns that stand on child turns and about which a policy was resolved."""
        return [turn_id for (turn_id,) in await self._read("ending_turns")]

    async def signalled_turns(self) -> list[int]:
        """Return suspended turns that stand on a signal while their actors have some that nobody has taken."""
        return [turn_id for (turn_id,) in await self._read("signalled_turns")]

    async def waiting_signal(self, actor_id: int, name: str) -> tuple[int, bytes] | None:
        """Return the oldest signal of a name that no turn of the actor has taken."""
        found = await self._read("waiting_signal", actor_id, name)
        return found[0] if found else None

    async def signal(self, actor_id: int, key: str) -> Signal | None:
        """Return the signal that a key stands for."""
        found = await self._read("signal", actor_id, key)
        return Signal(*found[0]) if found else None

    async def signals_waiting(self, actor_id: int) -> int:
        """Return how many signals no turn of the actor has taken."""
        return int((await self._read("signals_waiting_count", actor_id))[0][0])

    async def handoffs(self, tenant: str, session_id: str, from_agent: str, to_agent: str) -> tuple[int, float | None]:
        """Return how many handoffs a session has had, and when the last one was from one agent to another."""
        return (await self._read("handoffs_of", tenant, session_id, from_agent, to_agent))[0]  # type: ignore[no-any-return]
