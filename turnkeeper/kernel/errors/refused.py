"""Refused: nothing was accepted; the caller may act on it and send again."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import Refused

__all__ = [
    "ActorBusy",
    "ActorStopped",
    "ContractViolation",
    "IdempotencyConflict",
    "InvalidName",
    "MailboxFull",
    "PayloadTooLarge",
    "ShuttingDown",
    "UnknownAgent",
]


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
    """The mailbox has reached its limit. Nothing was accepted: slow down and send again. `what` it is full of."""

    mailbox: str
    mailbox_len_max: int
    what: str = "letters"
    says = "the mailbox of {mailbox} holds its limit of {mailbox_len_max} {what}; send again later"


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
    """The key was used for another payload. Nothing was written: use a new key for new content.

    `turn_id` is the number of what it stands for: a turn or, where `what` says so, a signal.
    """

    key: str
    turn_id: int
    what: str = "turn"
    says = "key {key!r} already stands for another payload ({what} {turn_id}); use a new key"


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
