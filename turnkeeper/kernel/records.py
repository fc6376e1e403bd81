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
    "HandedOff",
    "NodeBeat",
    "NodeStarted",
    "NodeStopped",
    "ReceiptAccepted",
    "ReceiptMoved",
    "ReceiptRetired",
    "ReceiptSeen",
    "Record",
    "SignalRetired",
    "SignalSent",
    "SignalTaken",
    "StateSet",
    "TurnAcquired",
    "TurnInserted",
    "TurnReleased",
    "WaitStood",
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
    arrived: str = ""


class ReceiptSeen(_Record, frozen=True):
    """A duplicate of an accepted inbound arrived."""

    last_seen: float
    receipt_id: int


class ReceiptMoved(_Record, frozen=True):
    """A message that had joined a turn opens one of its own: that turn ended first."""

    turn_id: int
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
    parent_id: int | None = None


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


class WaitStood(_Record, frozen=True):
    """A suspended turn, at this version, stands on something; its rows go when it is suspended no more.

    `issued` is the place of its step among the turn's steps; `child_id` the turn whose deliverable is waited for.
    """

    issued: int
    kind: str
    due_at: float
    child_id: int | None
    turn_id: int
    version: int


class SignalSent(_Record, frozen=True):
    """A named message to an actor; its key answers as an inbound's does. `signal.digested` gives it its digest."""

    signal_id: int
    actor_id: int
    name: str
    key: str
    body: bytes
    at: float
    expires_at: float
    digest: bytes = b""


class SignalRetired(_Record, frozen=True):
    """A signal's key is past its time to live and may stand for something new."""

    signal_id: int


class SignalTaken(_Record, frozen=True):
    """A turn has taken a signal: no other may."""

    taken_by: int
    signal_id: int


class HandedOff(_Record, frozen=True):
    """A turn was handed to another agent of its session; for the limits on that."""

    turn_id: int
    tenant: str
    session_id: str
    from_agent: str
    to_agent: str
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


class StateSet(_Record, frozen=True):
    """What an actor remembers from now on, as msgpack; made by `state.state_set`, committed with its turn's end.

    `version` is the one that its agent declared, and `turn_id` the turn of the actor that left it so.
    """

    actor_id: int
    version: int
    body: bytes
    turn_id: int
    at: float
    digest: bytes = b""


Record = (
    NodeStarted
    | NodeBeat
    | NodeStopped
    | ActorOpened
    | ReceiptAccepted
    | ReceiptSeen
    | ReceiptMoved
    | ReceiptRetired
    | TurnInserted
    | TurnReleased
    | TurnAcquired
    | EdgeAppended
    | EdgeAppendedLate
    | Deliverable
    | WaitStood
    | SignalRetired
    | SignalSent
    | SignalTaken
    | HandedOff
    | DesiredSet
    | ChildNoted
    | StateSet
)
