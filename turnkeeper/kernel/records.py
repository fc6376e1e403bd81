"""Records: what a commit point writes, one frozen struct for each statement.

A record's fields, in their order, are the parameters of the statement of the same name in `queries.sql`.
"""

import msgspec

__all__ = [
    "ActorOpened",
    "ChildNoted",
    "Deliverable",
    "DesiredSet",
    "EdgeAppended",
    "EdgeAppendedLate",
    "NodeBeat",
    "NodeStarted",
    "NodeStopped",
    "ReceiptAccepted",
    "ReceiptRetired",
    "ReceiptSeen",
    "Record",
    "TurnAcquired",
    "TurnInserted",
    "TurnReleased",
]


class _Record(msgspec.Struct, frozen=True, gc=False):
    """Base of the records: a row to write, told apart by its type."""


class NodeStarted(_Record, frozen=True):
    """A runtime opened the store."""

    boot_id: int
    pid: int
    started_at: float
    lease_until: float


class NodeBeat(_Record, frozen=True):
    """The node's heartbeat: one write however many turns run."""

    lease_until: float
    boot_id: int


class NodeStopped(_Record, frozen=True):
    """A runtime closed the store in good order."""

    stopped_at: float
    boot_id: int


class ActorOpened(_Record, frozen=True):
    """The first word to a (tenant, session, agent)."""

    actor_id: int
    tenant: str
    session_id: str
    agent_id: str


class ReceiptAccepted(_Record, frozen=True):
    """The durable answer to an inbound. Its state is its turn's, by a view, so the two cannot disagree."""

    receipt_id: int
    actor_id: int
    key: str
    turn_id: int
    digest: bytes
    first_seen: float
    last_seen: float
    expires_at: float


class ReceiptSeen(_Record, frozen=True):
    """A duplicate of an accepted inbound arrived."""

    last_seen: float
    receipt_id: int


class ReceiptRetired(_Record, frozen=True):
    """The receipt's time to live is over: its key may stand for something new."""

    receipt_id: int


class TurnInserted(_Record, frozen=True):
    """A new turn: queued, or running at once where its actor was idle."""

    turn_id: int
    actor_id: int
    state: str
    epoch: int
    version: int
    attempt: int
    boot_id: int | None


class TurnReleased(_Record, frozen=True):
    """The turn moved to a state that is not running. Guarded by the epoch and version it moved from.

    `digest` is over its history and its deliverable, once it has one.
    """

    state: str
    epoch: int
    version: int
    attempt: int
    due_at: float | None
    deliverable_id: int | None
    turn_id: int
    epoch_before: int
    version_before: int
    digest: bytes | None = None


class TurnAcquired(_Record, frozen=True):
    """The turn moved to running. Guarded by the epoch and version it moved from."""

    epoch: int
    version: int
    boot_id: int
    turn_id: int
    epoch_before: int
    version_before: int


class EdgeAppended(_Record, frozen=True):
    """One more edge of a turn that is at epoch `fence`; at any other epoch it is refused."""

    ordinal: int
    kind: str
    epoch: int
    at: float
    detail: bytes
    turn_id: int
    fence: int
    digest: bytes = b""


class EdgeAppendedLate(_Record, frozen=True):
    """One more edge of a turn that nobody holds in memory; the store finds the next ordinal, and its digest."""

    kind: str
    at: float
    detail: bytes
    turn_id: int


class Deliverable(_Record, frozen=True):
    """The one terminal result of a turn. `body` is msgpack: the handler's value, or a `Failure`."""

    turn_id: int
    outcome: str
    body: bytes
    at: float


class DesiredSet(_Record, frozen=True):
    """What is wanted of an agent or a child from now on. The last one of a path counts, in the order of commits.

    Made with its event by `supervision.noted.verb_noted`: the two belong into one commit point.
    """

    path: str
    desired: str
    reason: str
    at: float
    changed_by: str
    digest: bytes = b""


class ChildNoted(_Record, frozen=True):
    """Something happened to an agent, a child or a supervisor; the store finds its number. See `supervision.noted`."""

    path: str
    kind: str
    incarnation: int
    at: float
    boot_id: int
    detail: bytes
    digest: bytes = b""


Record = (
    NodeStarted
    | NodeBeat
    | NodeStopped
    | ActorOpened
    | ReceiptAccepted
    | ReceiptSeen
    | ReceiptRetired
    | TurnInserted
    | TurnReleased
    | TurnAcquired
    | EdgeAppended
    | EdgeAppendedLate
    | Deliverable
    | DesiredSet
    | ChildNoted
)
