"""Values: how what users pass becomes bytes and comes back, with limits and without surprises.

msgpack, because it keeps what JSON loses without a word (bytes, NaN, integer keys) and is never executable.
"""

from typing import Any, Final

import msgspec

from turnkeeper.kernel.errors import ContractViolation, PayloadTooLarge

__all__ = ["decode", "encode"]

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")  # equal dicts, equal bytes, equal digests
_unordered: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder()


def encode(value: object, what: str, bytes_max: int) -> bytes:
    """Return a value as stored.

    Args:
        value: anything msgspec can encode.
        what: how an error names the value.
        bytes_max: the limit.

    Raises:
        ContractViolation: the value cannot be stored (its type, a lone surrogate, an integer past 64 bits).
        PayloadTooLarge: it is larger than the limit.
    """
    try:
        try:
            encoded = _encoder.encode(value)
        except TypeError:  # msgspec orders no map with keys that are not text
            encoded = _unordered.encode(_ordered(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ContractViolation(what, f"cannot be stored: {error}") from error
    if len(encoded) > bytes_max:
        raise PayloadTooLarge(what, len(encoded), bytes_max)
    return encoded


def _ordered(value: object) -> object:
    """Return a value whose maps and sets have an order that follows from what is in them, as far as one can look."""
    match value:
        case dict():
            made = {key: _ordered(one) for key, one in value.items()}
            return dict(sorted(made.items(), key=lambda item: _unordered.encode(item[0])))
        case list() | tuple():
            return [_ordered(one) for one in value]
        case set() | frozenset():
            return [msgspec.Raw(one) for one in sorted(_unordered.encode(_ordered(one)) for one in value)]
        case _:
            return value


def decode(encoded: bytes, what: str, decoder: "msgspec.msgpack.Decoder[Any]" = _decoder) -> Any:
    """Return a stored value, checked against the decoder's type.

    Raises:
        ContractViolation: it does not fit the type; the reason names the path.
    """
    try:
        return decoder.decode(encoded)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ContractViolation(what, str(error)) from error
