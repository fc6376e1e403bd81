"""Every error, one tree: named by the fact, facts as attributes, the message says what to do.

TurnkeeperError
|-- Refused                    nothing was accepted; the caller may act on it and send again
|   |-- UnknownAgent, InvalidName, MailboxFull, ActorBusy, ActorStopped, ShuttingDown
|   `-- IdempotencyConflict, PayloadTooLarge, ContractViolation
|-- TurnError                  a turn cannot do what was asked of it
|   |-- TurnNotFound, IllegalTransition, TurnTerminal, DeliverableRecorded, TurnUnsuccessful
|   |-- StaleEpoch, VersionConflict, LeaseExpired, LeaseHeld
|   `-- StepLimitExceeded, DeadlineExceeded, RecursionDepthExceeded, Quarantined
|-- StepError                  a step has no good result
|   `-- StepFailed, ToolTimedOut, EffectInDoubt, ReplayDivergence
|-- WaitError                  a wait was answered wrongly, or would never end
|   `-- WaitTokenInvalid, Deadlock
|-- CoordinationError          the coordinator refuses
|   `-- ClaimDenied, StaleClaim, NotOwner, UnknownEvent
`-- StorageError               the file, not the caller
    `-- StorageFailed, StoreInUse, SchemaTooNew, KeyTaken
"""

from dataclasses import dataclass
from typing import ClassVar

from turnkeeper.kernel.names import StepName


class TurnkeeperError(Exception):
    """Base of every error of this library.

    Facts are attributes; `says` is the message with places for them. `retryable` says whether running the same
    turn once more could end otherwise; the retry policy reads it.
    """

    retryable: ClassVar[bool] = False
    says: ClassVar[str] = ""

    def __str__(self) -> str:
        """Return the message: `says`, with the facts in it."""
        return self.says.format(**vars(self)) if self.says else super().__str__()


class Refused(TurnkeeperError):
    """Nothing was accepted or written."""


class TurnError(TurnkeeperError):
    """A turn cannot do what was asked of it."""


class StepError(TurnkeeperError):
    """A step has no good result."""


class WaitError(TurnkeeperError):
    """A wait was answered wrongly, or could never be answered."""


class CoordinationError(TurnkeeperError):
    """The coordinator refuses a task's claim, update or event."""


class StorageError(TurnkeeperError):
    """The store, not the caller, is at fault."""


@dataclass(eq=False)
class UnknownAgent(Refused):
    """No agent of this name was given to the runtime. Pass it in `agents=[...]`."""

    agent_id: str
    known: str
    says = "no agent {agent_id!r} in this runtime; it has {known}"


@dataclass(eq=False)
class InvalidName(Refused):
    """A tenant, session, agent or key that cannot be an address. Send another one."""

    what: str
    reason: str
    says = "{what} {reason}"


@dataclass(eq=False)
class MailboxFull(Refused):
    """The mailbox has reached its limit. Nothing was accepted: slow down and send again."""

    mailbox: str
    mailbox_len_max: int
    says = "the mailbox of {mailbox} holds its limit of {mailbox_len_max} letters; send again later"


@dataclass(eq=False)
class ActorBusy(Refused):
    """A turn of the actor is live and its policy is to refuse. Send again under the same key."""

    actor: str
    says = "{actor} has a live turn and refuses others meanwhile"


@dataclass(eq=False)
class ActorStopped(Refused):
    """The actor has stopped, by request or by a crash (then `__cause__` is the crash)."""

    actor: str
    says = "actor {actor} has stopped and takes no letters"


class ShuttingDown(Refused):
    """The runtime is closing or closed. Send again, under the same key, to the next one."""

    says = "the runtime is not accepting work: it is closing or closed"


@dataclass(eq=False)
class IdempotencyConflict(Refused):
    """The key was used for another payload. Nothing was written: use a new key for new content."""

    key: str
    turn_id: int
    says = "key {key!r} already stands for another payload (turn {turn_id}); use a new key"


@dataclass(eq=False)
class PayloadTooLarge(Refused):
    """A value is larger than the setting `payload_bytes_max`. Store it elsewhere and pass a reference."""

    what: str
    size_bytes: int
    payload_bytes_max: int
    says = "{what} is {size_bytes} bytes; the limit is {payload_bytes_max}"


@dataclass(eq=False)
class ContractViolation(Refused):
    """A value does not fit the declared type, or cannot be stored. Mend the caller or the tool."""

    what: str
    reason: str
    says = "{what}: {reason}"


@dataclass(eq=False)
class TurnNotFound(TurnError):
    """The store holds no such turn."""

    turn_id: int
    says = "no turn {turn_id} in this store"


@dataclass(eq=False)
class IllegalTransition(TurnError):
    """The state table has no such row. Ours to mend, unless a store was changed by hand."""

    state: str | None
    event: str
    says = "{event} is not legal in state {state}"


@dataclass(eq=False)
class TurnTerminal(TurnError):
    """The turn has its deliverable; nothing more can happen to it."""

    turn_id: int
    state: str
    says = "turn {turn_id} is {state} and stays so"


@dataclass(eq=False)
class TurnUnsuccessful(TurnError):
    """The turn ended without a value: `outcome` says how, `reason` why."""

    turn_id: int
    outcome: str
    reason: str
    says = "turn {turn_id} {outcome}: {reason}"


@dataclass(eq=False)
class StaleEpoch(TurnError):
    """The right to run the turn has passed to another; this write changed nothing. Stop working on it."""

    turn_id: int
    epoch: int
    says = "turn {turn_id} has left epoch {epoch}; the write was refused"


@dataclass(eq=False)
class VersionConflict(TurnError):
    """The turn moved since it was read; nothing was written. Read it again."""

    turn_id: int
    version: int
    says = "turn {turn_id} is no longer at version {version}; nothing was written"


@dataclass(eq=False)
class LeaseExpired(TurnError):
    """The lease ran out before the work did; whatever is still written is refused."""

    turn_id: int
    expired_at: float
    says = "the lease of turn {turn_id} expired at {expired_at:.3f}"


@dataclass(eq=False)
class LeaseHeld(TurnError):
    """Another turn of the same actor is running; one runs at a time."""

    actor_id: int
    says = "actor {actor_id} already has a running turn"


@dataclass(eq=False)
class DeliverableRecorded(TurnError):
    """The turn already has its one deliverable; the second was refused."""

    turn_id: int
    says = "turn {turn_id} already has its deliverable"


@dataclass(eq=False)
class StepLimitExceeded(TurnError):
    """The handler asked for more steps than the setting `steps_max`: a loop, or a limit to raise."""

    turn_id: int
    steps_max: int
    says = "turn {turn_id} asked for more than {steps_max} steps"


@dataclass(eq=False)
class DeadlineExceeded(TurnError):
    """The turn ran, or waited, longer than it may."""

    turn_id: int
    limit_s: float
    says = "turn {turn_id} went past its limit of {limit_s:g} s"


@dataclass(eq=False)
class RecursionDepthExceeded(TurnError):
    """Child turns are nested deeper than the setting `depth_max`."""

    turn_id: int
    depth_max: int
    says = "turn {turn_id} nests deeper than {depth_max}"


@dataclass(eq=False)
class Quarantined(TurnError):
    """The turn's process died under it more often than `recoveries_max` allows: it takes its process down."""

    turn_id: int
    recoveries: int
    says = "turn {turn_id} was taken back from {recoveries} processes that died under it"


@dataclass(eq=False)
class StepFailed(StepError):
    """The tool raised, or returned what does not fit; recorded, and raised again on every rerun of the handler.

    Catch it in the handler to go on without the step. `type` and `message` are the tool's own exception's, which on
    the first run is also the `__cause__`.
    """

    retryable: ClassVar[bool] = True
    step: StepName
    effect: str
    type: str
    message: str
    says = "step {step} failed: {type}: {message}"


@dataclass(eq=False)
class ToolTimedOut(StepFailed):
    """The tool took longer than its `timeout_s`. An effectful one is in doubt then, and never ends so by itself."""


@dataclass(eq=False)
class EffectInDoubt(StepError):
    """Nobody knows whether the effect happened, and nobody could find out. It was not repeated."""

    step: StepName
    idempotency_key: str
    says = "step {step} (key {idempotency_key}) may or may not have happened; it was not repeated"


@dataclass(eq=False)
class ReplayDivergence(StepError):
    """The handler asked a recorded step with other arguments: it is not deterministic, or its code changed."""

    step: StepName
    recorded: str
    asked: str
    says = "step {step} was recorded with {recorded} and is now asked with {asked}"


@dataclass(eq=False)
class WaitTokenInvalid(WaitError):
    """The answer's token is missing, wrong, expired or used; the wait stands as it was."""

    turn_id: int
    reason: str
    says = "turn {turn_id} takes no such answer: {reason}"


@dataclass(eq=False)
class Deadlock(WaitError):
    """The ask would close a cycle of actors that wait for each other."""

    cycle: str
    says = "would wait for itself: {cycle}"


@dataclass(eq=False)
class ClaimDenied(CoordinationError):
    """The task cannot be claimed now; `reason` says why, `retry_after_s` when to try again."""

    task_id: str
    reason: str
    retry_after_s: float | None
    says = "task {task_id} cannot be claimed: {reason}"


@dataclass(eq=False)
class StaleClaim(CoordinationError):
    """The claim has passed to another; the update changed nothing."""

    task_id: str
    claim_epoch: int
    says = "task {task_id} has left claim epoch {claim_epoch}; the update was refused"


@dataclass(eq=False)
class NotOwner(CoordinationError):
    """Only the task's owner may do this."""

    task_id: str
    participant: str
    says = "task {task_id} is not {participant}'s"


@dataclass(eq=False)
class UnknownEvent(CoordinationError):
    """An event of a type or status nobody declared; it was refused, not guessed at."""

    what: str
    says = "unknown event: {what}"


@dataclass(eq=False)
class StorageFailed(StorageError):
    """The store could not do it; nothing of it is acknowledged. See `reason` (disk full, not a database ...)."""

    retryable: ClassVar[bool] = True
    path: str
    reason: str
    says = "{path}: {reason}"


@dataclass(eq=False)
class StoreInUse(StorageError):
    """Another runtime owns the file. One process writes; readers may open it meanwhile."""

    path: str
    owner: str
    says = "{path}: in use by {owner}; one runtime owns a file at a time"


@dataclass(eq=False)
class SchemaTooNew(StorageError):
    """The file was written by a newer version. Upgrade turnkeeper; the file was not touched."""

    path: str
    found: int
    known: int
    says = "{path}: has schema {found}, this version knows up to {known}; upgrade turnkeeper"


@dataclass(eq=False)
class KeyTaken(StorageError):
    """The store holds a receipt under this key already. Internal: `tell` answers with that receipt."""

    key: str
    says = "key {key!r} has a receipt already"
