"""Rows: a store as anybody may read it, without owning it. What a history is checked from, and looked back on."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from turnkeeper.kernel.edge import Edge
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import ReceiptRow
from turnkeeper.kernel.records import Deliverable, SignalSent, StateSet
from turnkeeper.kernel.supervision.noted import ChildEvent, DesiredRow
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait

__all__ = ["AgentRow", "NumberedEdge", "Rows", "SessionRow", "SignalRow", "StoredTurn"]


class SessionRow(NamedTuple):
    """A session agent and what it has done."""

    actor_id: int
    address: Address
    turns: int
    live: int
    failed: int
    last_at: float | None


class AgentRow(NamedTuple):
    """An agent by its name, with how many live turns its session agents have, by state."""

    agent_id: str
    queued: int
    running: int
    suspended: int


class StoredTurn(NamedTuple):
    """A turn as stored, with the receipt that opened it. `sealed` is its terminal row's digest."""

    row: TurnRow
    sealed: bytes | None
    receipt: ReceiptRow | None


class NumberedEdge(NamedTuple):
    """An edge with its number in the store's own order."""

    number: int
    edge: Edge


class SignalRow(NamedTuple):
    """A signal as it was sent, and the turn that has taken it. A retired one has given its key to a later one."""

    sent: SignalSent
    taken_by: int | None
    retired: bool = False


class Rows(Protocol):
    """One consistent view of a store's rows."""

    def sessions(self) -> Iterable[SessionRow]:
        """Yield every session agent, in the order in which they were first spoken to."""
        ...

    def agents(self) -> Sequence[AgentRow]:
        """Return every agent that was ever spoken to, by name."""
        ...

    def histories(self) -> Iterable[tuple[SessionRow, Sequence[StoredTurn]]]:
        """Yield every session agent with its turns, both in the order of acceptance."""
        ...

    def address(self, actor_id: int) -> Address | None:
        """Return where an actor is."""
        ...

    def turns(self, actor_id: int) -> Sequence[StoredTurn]:
        """Return an actor's turns in the order of acceptance."""
        ...

    def turn(self, turn_id: int) -> StoredTurn | None:
        """Return one turn."""
        ...

    def live(self) -> Sequence[int]:
        """Return the ids of the live turns, in the order of acceptance."""
        ...

    def live_of(self, actor_id: int) -> Sequence[int]:
        """Return the ids of an actor's live turns, in the order of acceptance."""
        ...

    def running(self) -> Sequence[int]:
        """Return the ids of the running turns, in the order of acceptance."""
        ...

    def waits(
        self,
        kind: str,
        after: tuple[int, int],
        limit: int,
        *,
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> Sequence[tuple[int, int]]:
        """Return at most `limit` waits of a kind on which suspended turns stand, as (turn, its step's place).

        In that order, from behind `after` on. They are those of a tenant and of a session; None means all.
        """
        ...

    def stands(self, turn_id: int) -> Sequence[OpenWait]:
        """Return what a turn stands on, by the places of its steps; where child turns are is left out."""
        ...

    def signals(self) -> Iterable[SignalRow]:
        """Yield every signal, in the order in which they were sent."""
        ...

    def duplicated(self) -> Sequence[int]:
        """Return the ids of the turns whose inbound came more than once, in the order of acceptance."""
        ...

    def edges(self, turn_id: int) -> Sequence[NumberedEdge]:
        """Return a turn's edges in order. Kinds are as stored, known or not."""
        ...

    def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable."""
        ...

    def joined(self, turn_id: int) -> list[ReceiptRow]:
        """Return the receipts of the messages that have joined a turn, in the order of acceptance."""
        ...

    def state(self, actor_id: int) -> StateSet | None:
        """Return what an actor remembers, as `Store.state`."""
        ...

    def lease_until(self, boot_id: int) -> float | None:
        """Return until when a boot may run turns (wall time, s); None if it has stopped, or never was."""
        ...

    def desired(self) -> Sequence[DesiredRow]:
        """Return what is wanted of whom, as `Store.desired`; values are as stored, known or not."""
        ...

    def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> Sequence[ChildEvent]:
        """Return events of supervision, as `Store.child_events`; values are as stored, known or not."""
        ...

    def orphans(self) -> Iterable[tuple[str, str]]:
        """Yield rows that nothing leads to, as (where, what)."""
        ...
