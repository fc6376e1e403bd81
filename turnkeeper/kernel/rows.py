"""Rows: a store as anybody may read it, without owning it. What a history is checked from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from turnkeeper.kernel.edge import Edge
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.turn import TurnRow

__all__ = ["NumberedEdge", "OpeningReceipt", "Rows", "SessionRow", "StoredTurn"]


class SessionRow(NamedTuple):
    """A session agent and what it has done."""

    actor_id: int
    address: Address
    turns: int
    live: int
    failed: int
    last_at: float | None


class OpeningReceipt(msgspec.Struct, frozen=True):
    """What the receipt that opened a turn says of it."""

    key: str
    digest: bytes
    duplicate_count: int


class StoredTurn(NamedTuple):
    """A turn as stored, with its receipt. Times are wall time, s."""

    row: TurnRow
    receipt: OpeningReceipt | None
    first_seen: float | None


class NumberedEdge(NamedTuple):
    """An edge with its number in the store's own order."""

    number: int
    edge: Edge


class Rows(Protocol):
    """One consistent view of a store's rows."""

    def sessions(self) -> Iterable[SessionRow]:
        """Yield every session agent, in the order in which they were first spoken to."""
        ...

    def turns(self, actor_id: int) -> Sequence[StoredTurn]:
        """Return an actor's turns in the order of acceptance."""
        ...

    def edges(self, turn_id: int) -> Sequence[NumberedEdge]:
        """Return a turn's edges in order. Kinds are as stored, known or not."""
        ...

    def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable."""
        ...

    def orphans(self) -> Iterable[tuple[str, str]]:
        """Yield rows that nothing leads to, as (where, what)."""
        ...
