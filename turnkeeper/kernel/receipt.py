"""Receipts: the durable answer to an inbound, and what a key that arrives again is answered with."""

from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from turnkeeper.kernel.errors import IdempotencyConflict
from turnkeeper.kernel.turn import TurnState

__all__ = ["FRESH_KEY", "STATE_OF", "Admission", "KnownKey", "ReceiptRow", "ReceiptState", "admit", "payload_digest"]


FRESH_KEY: Final = "~"
"""What the key of an inbound without one begins with; no caller's key may, so a fresh key is always fresh."""


class ReceiptState(StrEnum):
    """What became of an inbound."""

    ACCEPTED = "accepted"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATE_OF: Final[Mapping[TurnState, ReceiptState]] = MappingProxyType(
    {
        TurnState.QUEUED: ReceiptState.ACCEPTED,
        TurnState.RUNNING: ReceiptState.PROCESSING,
        TurnState.SUSPENDED: ReceiptState.PROCESSING,
        TurnState.COMPLETED: ReceiptState.COMPLETED,
        TurnState.FAILED: ReceiptState.FAILED,
        TurnState.CANCELLED: ReceiptState.CANCELLED,
    }
)
"""A receipt's state is its turn's, in other words; it is never stored a second time."""


class Admission(StrEnum):
    """The answer to an inbound, by what its key already stands for."""

    NEW = "new"  # a receipt and a turn
    DUPLICATE = "duplicate"  # the receipt there is, and its deliverable once there is one
    RENEWED = "renewed"  # the old receipt is past its time to live: retire it, then as new


class ReceiptRow(msgspec.Struct, frozen=True, gc=False):
    """A receipt as stored. Times are wall time in seconds. A retired one has given its key to a later one.

    `arrived` is what its arrival came to (`kernel.arrival`); empty in what was written before that was told.
    """

    receipt_id: int
    actor_id: int
    key: str
    turn_id: int
    digest: bytes
    state: ReceiptState
    duplicate_count: int
    first_seen: float
    last_seen: float
    expires_at: float
    arrived: str = ""
    retired: bool = False


class KnownKey(Protocol):
    """What deciding on a key takes: a stored receipt has it, and so has an arrival held in memory."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def turn_id(self) -> int: ...  # noqa: D102
    @property
    def digest(self) -> bytes: ...  # noqa: D102
    @property
    def expires_at(self) -> float: ...  # noqa: D102


def admit(known: KnownKey | None, digest: bytes, now: float) -> Admission:
    """Decide what an inbound is, by the receipt its key has. Content alone never makes a duplicate.

    Raises:
        IdempotencyConflict: the key stands for another payload.
    """
    if known is None:
        return Admission.NEW
    if now >= known.expires_at:
        return Admission.RENEWED
    if known.digest != digest:
        raise IdempotencyConflict(known.key, known.turn_id)
    return Admission.DUPLICATE


def payload_digest(payload: bytes) -> bytes:
    """Return the 16 bytes by which two payloads under one key are compared."""
    return blake2b(payload, digest_size=16).digest()
