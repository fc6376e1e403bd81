"""State: what an actor remembers between its turns, as it is stored."""

from hashlib import blake2b
from typing import Final

import msgspec

from turnkeeper.kernel.records import StateSet

__all__ = ["digest_of_state", "state_set"]

_encoder: Final = msgspec.msgpack.Encoder()


def state_set(actor_id: int, version: int, body: bytes, *, turn_id: int, at: float) -> StateSet:
    """Return the record of what an actor remembers from now on; it belongs into the commit point of its turn's end.

    Args:
        actor_id: who remembers.
        version: of the state, as its agent declares it.
        body: the state, msgpack.
        turn_id: the actor's turn that leaves it so.
        at: wall time, s.
    """
    record = StateSet(actor_id, version, body, turn_id, float(at))
    return msgspec.structs.replace(record, digest=digest_of_state(record))


def digest_of_state(row: StateSet) -> bytes:
    """Return the digest of a state: 8 bytes over all of it."""
    facts = (row.actor_id, row.version, row.body, row.turn_id, row.at)
    return blake2b(_encoder.encode(facts), digest_size=8).digest()
