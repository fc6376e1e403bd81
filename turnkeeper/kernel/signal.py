"""Signal: a named message to an actor, as it is stored."""

from hashlib import blake2b
from typing import Final

import msgspec

from turnkeeper.kernel.records import SignalSent

__all__ = ["digest_of_signal", "digested"]

_encoder: Final = msgspec.msgpack.Encoder()


def digested(sent: SignalSent) -> SignalSent:
    """Return the record of a signal with its digest, as a store is given it."""
    return msgspec.structs.replace(sent, digest=digest_of_signal(sent))


def digest_of_signal(sent: SignalSent) -> bytes:
    """Return the digest of a signal: 8 bytes over all that was sent; who takes it comes later."""
    facts = (sent.signal_id, sent.actor_id, sent.name, sent.key, sent.body, float(sent.at), float(sent.expires_at))
    return blake2b(_encoder.encode(facts), digest_size=8).digest()
