"""Ports: what the kernel's users must bring (time, chance, a store), so that tests can bring their own."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from turnkeeper.kernel.edge import Edge
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import ReceiptRow
from turnkeeper.kernel.records import Deliverable, Record, StateSet
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.noted import ChildEvent, DesiredRow
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait

__all__ = ["Chance", "Clock", "DueTurn", "Happening", "LiveTurn", "Marks", "Points", "Signal", "Store", "Waiting"]


T = TypeVar("T")


class Clock(Protocol):
    """Wall time, for rows and for deadlines that outlive the process."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        ...


class Chance(Protocol):
    """Randomness: backoff's jitter, a new store's name, and the tokens by which people answer."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def token(self) -> str:
        """Return a text that nobody else has and nobody can guess: who has a wait's token may answer it."""
        ...


class Points(Protocol):
    """The named points that a runtime passes, at each of which a test may stop the world."""

    def reached(self, point: str, subject: str) -> None:
        """Be told that a point is reached; what this raises ends the process as a kill would.

        Args:
            point: `effect.before` or `effect.after` the call of a tool that is not pure; `sweep.caught` where a turn
                was left to nobody; a store under test adds `commit.before` and `commit.after`.
            subject: the effect's idempotency key; which turn was caught.
        """
        ...


class Marks(msgspec.Struct, frozen=True):
    """The highest ids a store has handed out, from which the runtime counts on in memory."""

    store_id: str
    boot_id: int
    actor_id: int
    receipt_id: int
    signal_id: int = 0


class LiveTurn(msgspec.Struct, frozen=True, gc=False):
    """A live turn as the store has it: what a session agent needs to hold it, without payload or steps.

    `joined` counts the messages that have joined it.
    """

    row: TurnRow
    address: Address
    key: str
    digest: bytes
    expires_at: float
    parent_id: int | None = None
    arrived: str = ""
    joined: int = 0


class DueTurn(NamedTuple):
    """A suspended turn whose deadline has come (wall time, s), and where it is."""

    due_at: float
    turn_id: int
    address: Address


class Signal(NamedTuple):
    """A signal that was sent to an actor; `body` is msgpack."""

    signal_id: int
    name: str
    body: bytes
    expires_at: float


class Happening(NamedTuple):
    """A committed edge, by its offset in the store's own order of edges."""

    offset: int
    turn_id: int
    ordinal: int
    kind: str
    at: float
    address: Address


class Waiting(Protocol):
    """What a store knows of turns that wait, of their children, and of signals."""

    async def live_turns_in(self, tenant: str, session_id: str) -> list[int]:
        """Return the ids of a session's live turns, in the order of acceptance."""
        ...

    async def live_children(self, turn_id: int) -> list[tuple[int, Address]]:
        """Return the live turns that a turn has asked for, and where they are."""
        ...

    async def address_of(self, turn_id: int) -> Address | None:
        """Return where a turn is."""
        ...

    async def suspended_count(self) -> int:
        """Return how many turns are suspended."""
        ...

    async def due_turns(self, after: tuple[float, int], now: float, limit: int) -> list[DueTurn]:
        """Return at most `limit` suspended turns whose deadline has come, behind a place in the order of deadlines."""
        ...

    async def next_due(self, after: float) -> float | None:
        """Return the first deadline of a suspended turn after a moment (wall time, s)."""
        ...

    async def waits(self, turn_id: int) -> list[OpenWait]:
        """Return what a suspended turn stands on, in the order in which it was asked for."""
        ...

    async def answered_children(self) -> list[tuple[int, int]]:
        """Return child turns that have ended while their parents stand on them still, as (child, parent)."""
        ...

    async def orphaned_children(self) -> list[int]:
        """Return live child turns whose parents have ended."""
        ...

    async def ending_turns(self) -> list[int]:
        """Return suspended turns that stand on child turns and about which a policy was resolved."""
        ...

    async def signalled_turns(self) -> list[int]:
        """Return suspended turns that stand on a signal while their actors have some that nobody has taken."""
        ...

    async def waiting_signal(self, actor_id: int, name: str) -> tuple[int, bytes] | None:
        """Return the oldest signal of a name that no turn of the actor has taken: its number, and its body."""
        ...

    async def signal(self, actor_id: int, key: str) -> Signal | None:
        """Return the signal that a key stands for."""
        ...

    async def signals_waiting(self, actor_id: int) -> int:
        """Return how many signals no turn of the actor has taken."""
        ...

    async def handoffs(self, tenant: str, session_id: str, from_agent: str, to_agent: str) -> tuple[int, float | None]:
        """Return how many handoffs a session has had, and when the last one was from one agent to another."""
        ...


class Store(Protocol):
    """Durable rows. One runtime owns a store at a time; `apply` is called by one writer only."""

    path: str

    @property
    def waiting(self) -> Waiting:
        """Return what answers about waiting."""
        ...

    async def open(self) -> Marks:
        """Take ownership and bring the schema up to date.

        Raises:
            StoreInUse, SchemaTooNew, StorageFailed: it cannot be had; nothing was changed.
        """
        ...

    async def close(self) -> None:
        """Give up ownership."""
        ...

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        """Write the commit points, in order, in one durable transaction.

        What comes is in an order in which it can be applied record by record. A store may apply a batch in another
        one, as long as what was in such an order ends in the same rows.

        Returns:
            The rejected points by index, each with the reason; nothing of a rejected point was written, and
            the other points stand.

        Raises:
            StorageFailed: nothing of any point was written.
        """
        ...

    async def live_turns(self) -> list[LiveTurn]:
        """Return every live turn, in the order in which they were accepted."""
        ...

    async def awake_turns(self) -> list[LiveTurn]:
        """Return the live turns of the actors that have no suspended one, in the order of acceptance."""
        ...

    async def live_turns_of(self, actor_id: int) -> list[LiveTurn]:
        """Return an actor's live turns, in the order of acceptance."""
        ...

    async def live_turns_after(self, actor_id: int, turn_id: int, limit: int) -> list[LiveTurn]:
        """Return at most `limit` live turns behind a place in the order of actors and, of each, of turns.

        What it costs follows from `limit` and from how many turns wait for one actor, not from how many are live.
        """
        ...

    async def actor_id(self, address: Address) -> int | None:
        """Return the id of an actor that has been spoken to before."""
        ...

    async def receipt(self, actor_id: int, key: str) -> ReceiptRow | None:
        """Return the receipt a key stands for now."""
        ...

    async def turn(self, turn_id: int) -> TurnRow | None:
        """Return a turn as stored."""
        ...

    async def edges(self, turn_id: int) -> list[Edge]:
        """Return a turn's edges in order."""
        ...

    async def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable once it has one."""
        ...

    async def state(self, actor_id: int) -> StateSet | None:
        """Return what an actor remembers: the state that the last of its turns to commit one has left."""
        ...

    async def happened(self, since: int, limit: int) -> list[Happening]:
        """Return at most `limit` committed edges after an offset, in the order in which they were committed."""
        ...

    async def desired(self) -> list[DesiredRow]:
        """Return what is wanted of everybody of whom it was ever said, by path; of all others it is to run."""
        ...

    async def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        """Return at most `limit` events of supervision after a number, in the order in which they were committed.

        The newest are kept, so many of a path and so many in all (`EVENTS_PER_PATH_MAX`, `EVENTS_MAX` in
        `kernel.supervision.noted`); the others go in the commit that makes them too many.

        Args:
            path: whose; None for everybody's.
            after: the number of the last one that is known already.
            limit: how many at most.
        """
        ...

    async def look(self, question: Callable[[Rows], T]) -> T:
        """Answer a question from one consistent view of the rows, without holding up the writer."""
        ...

    async def prune(self, ended_before: float, now: float, limit: int) -> int:
        """Delete at most `limit` turns, with all that is theirs, that ended before a moment; return how many.

        A turn goes only once its key answers nothing any more at `now`. Live turns stay, and so do the newest turn and
        the newest edge's, from which numbers are counted on. Signals that were taken, and whose keys answer nothing any
        more, go as well, however many they are. May be called while `apply` is under way.

        Raises:
            StorageFailed: nothing was deleted.
        """
        ...
