"""Every error, one tree: named by the fact, facts as attributes, the message says what to do.

TurnkeeperError
|-- Refused                    nothing was accepted; the caller may act on it and send again
|   |-- UnknownAgent, InvalidName, MailboxFull, ActorBusy, ActorStopped, ShuttingDown
|   `-- IdempotencyConflict, PayloadTooLarge, ContractViolation
|-- TurnError                  a turn cannot do what was asked of it
|   |-- TurnNotFound, IllegalTransition, TurnTerminal, DeliverableRecorded, TurnUnsuccessful
|   |-- StaleEpoch, VersionConflict, LeaseExpired, LeaseHeld
|   |-- VersionGone
|   `-- StepLimitExceeded, DeadlineExceeded, RecursionDepthExceeded, FanOutExceeded, Quarantined
|-- StepError                  a step has no good result
|   `-- StepFailed, ToolTimedOut, EffectInDoubt, ReplayDivergence, ContractChanged
|-- WaitError                  a wait was answered wrongly, or would never end
|   `-- WaitTokenInvalid, WaitExpired, ApprovalDenied, HandoffRefused, Deadlock
|-- CoordinationError          the coordinator refuses
|   `-- ClaimDenied, StaleClaim, NotOwner, UnknownEvent
|-- DoorError                  another process asked the runtime, and got no value
|   `-- DoorClosed, DoorRefused, DoorSilent
|-- SupervisionError           a child cannot be started, kept, or told what it was told
|   |-- StaleIncarnation, UnknownChild, VerbRefused
|   |-- NotJoined, StaleConnection, TooManyParticipants
|   `-- ChildNotStarted, ChildNotWanted, ChildQuarantined, TooManyRestarts, ProcessDied, LetterDead
`-- StorageError               the file, not the caller
    `-- StorageFailed, StoreInUse, SchemaTooNew, KeyTaken
"""

from turnkeeper.kernel.errors.base import (
    CoordinationError,
    DoorError,
    Refused,
    StepError,
    StorageError,
    SupervisionError,
    TurnError,
    TurnkeeperError,
    WaitError,
)
from turnkeeper.kernel.errors.coordination import (
    ClaimDenied,
    NotOwner,
    StaleClaim,
    UnknownEvent,
)
from turnkeeper.kernel.errors.door import DoorClosed, DoorRefused, DoorSilent
from turnkeeper.kernel.errors.refused import (
    ActorBusy,
    ActorStopped,
    ContractViolation,
    IdempotencyConflict,
    InvalidName,
    MailboxFull,
    PayloadTooLarge,
    ShuttingDown,
    UnknownAgent,
)
from turnkeeper.kernel.errors.step import (
    ContractChanged,
    EffectInDoubt,
    ReplayDivergence,
    StepFailed,
    ToolTimedOut,
)
from turnkeeper.kernel.errors.storage import (
    KeyTaken,
    SchemaTooNew,
    StorageFailed,
    StoreInUse,
)
from turnkeeper.kernel.errors.supervision import (
    ChildNotStarted,
    ChildNotWanted,
    ChildQuarantined,
    LetterDead,
    NotJoined,
    ProcessDied,
    StaleConnection,
    StaleIncarnation,
    TooManyParticipants,
    TooManyRestarts,
    UnknownChild,
    VerbRefused,
)
from turnkeeper.kernel.errors.turn import (
    DeadlineExceeded,
    DeliverableRecorded,
    FanOutExceeded,
    IllegalTransition,
    LeaseExpired,
    LeaseHeld,
    Quarantined,
    RecursionDepthExceeded,
    StaleEpoch,
    StepLimitExceeded,
    TurnNotFound,
    TurnTerminal,
    TurnUnsuccessful,
    VersionConflict,
    VersionGone,
)
from turnkeeper.kernel.errors.wait import (
    ApprovalDenied,
    Deadlock,
    HandoffRefused,
    WaitExpired,
    WaitTokenInvalid,
)

__all__ = [
    "ActorBusy",
    "ActorStopped",
    "ApprovalDenied",
    "ChildNotStarted",
    "ChildNotWanted",
    "ChildQuarantined",
    "ClaimDenied",
    "ContractChanged",
    "ContractViolation",
    "CoordinationError",
    "DeadlineExceeded",
    "Deadlock",
    "DeliverableRecorded",
    "DoorClosed",
    "DoorError",
    "DoorRefused",
    "DoorSilent",
    "EffectInDoubt",
    "FanOutExceeded",
    "HandoffRefused",
    "IdempotencyConflict",
    "IllegalTransition",
    "InvalidName",
    "KeyTaken",
    "LeaseExpired",
    "LeaseHeld",
    "LetterDead",
    "MailboxFull",
    "NotJoined",
    "NotOwner",
    "PayloadTooLarge",
    "ProcessDied",
    "Quarantined",
    "RecursionDepthExceeded",
    "Refused",
    "ReplayDivergence",
    "SchemaTooNew",
    "ShuttingDown",
    "StaleClaim",
    "StaleConnection",
    "StaleEpoch",
    "StaleIncarnation",
    "StepError",
    "StepFailed",
    "StepLimitExceeded",
    "StorageError",
    "StorageFailed",
    "StoreInUse",
    "SupervisionError",
    "TooManyParticipants",
    "TooManyRestarts",
    "ToolTimedOut",
    "TurnError",
    "TurnNotFound",
    "TurnTerminal",
    "TurnUnsuccessful",
    "TurnkeeperError",
    "UnknownAgent",
    "UnknownChild",
    "UnknownEvent",
    "VerbRefused",
    "VersionConflict",
    "VersionGone",
    "WaitError",
    "WaitExpired",
    "WaitTokenInvalid",
]
