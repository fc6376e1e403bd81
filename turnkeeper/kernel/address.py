"""Addresses: what may name a tenant, a session, an agent or a key, and what somebody may say."""

from typing import Final

import msgspec

from turnkeeper.kernel.errors import ContractViolation, InvalidName
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import FRESH_KEY

__all__ = ["NAME_LEN_MAX", "address", "check_key", "check_name", "check_said", "check_session"]

NAME_LEN_MAX = 512
"""Characters in a name: enough for any id in use, small enough for an index."""

_SAID_BYTES_MAX: Final = 1_000
"""Of who says something, and why, in UTF-8: as much as is kept of what is said to children."""


def address(tenant: str, session_id: str, agent_id: str) -> Address:
    """Return an actor's address; the tenant may be empty.

    Raises:
        InvalidName: a part is no text, empty, too long, or not encodable.
    """
    check_session(tenant, session_id)
    check_name("agent_id", agent_id)
    return Address(tenant, session_id, agent_id)


def check_session(tenant: str, session_id: str) -> None:
    """Refuse what can be no session; the tenant may be empty.

    Raises:
        InvalidName: as for an address.
    """
    if tenant != "":
        check_name("tenant", tenant)
    check_name("session_id", session_id)


def check_key(key: str) -> None:
    """Refuse a key that could not be told from others.

    Raises:
        InvalidName: as for an address, or it begins like the keys of inbounds that have none.
    """
    check_name("key", key)
    if key.startswith(FRESH_KEY):
        raise InvalidName("key", f"{key!r} begins with {FRESH_KEY!r}, which is kept for inbounds without a key")


def check_name(what: str, value: str) -> None:
    """Refuse what can be no name; `what` is what the error calls it.

    Raises:
        InvalidName: empty, too long, or not valid text.
    """
    if not isinstance(value, str):
        raise InvalidName(what, f"must be text, not {type(value).__name__}")
    if not value:
        raise InvalidName(what, "is empty")
    if len(value) > NAME_LEN_MAX:
        raise InvalidName(what, f"has {len(value)} characters; the limit is {NAME_LEN_MAX}")
    if "\0" in value:
        raise InvalidName(what, "has a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidName(what, f"{value!r} is not valid text: {error.reason}") from error


def check_said(what: str, value: str) -> None:
    """Refuse what cannot be recorded of who says something, or why; it may be empty.

    Nothing else looks at its type before it is read again, and what cannot be read is read by nobody ever after.

    Raises:
        ContractViolation: not text, not to be stored as text, or too long.
    """
    if not isinstance(value, str):
        raise ContractViolation(what, f"must be text, not {type(value).__name__}")
    try:
        msgspec.msgpack.encode(value)
        size = len(value.encode())
    except (TypeError, ValueError) as error:
        raise ContractViolation(what, f"cannot be stored: {error}") from error
    if size > _SAID_BYTES_MAX:
        raise ContractViolation(what, f"has {size} bytes; the limit is {_SAID_BYTES_MAX}")
