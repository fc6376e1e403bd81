"""Knocking: how a program asks the runtime that owns a store, through the door beside it.

A unix socket, `<store>.door`. A request is one line of JSON, `{"verb": ..., ...fields}`; its answer is one line,
`{"ok": value}` or `{"error": {"type": ..., "message": ...}}`. Here is the caller's side, and what both sides share.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from turnkeeper.actors.store.file import resolve
from turnkeeper.kernel.errors import ContractViolation, DoorClosed, DoorRefused, DoorSilent, PayloadTooLarge

__all__ = [
    "LINE_BYTES_MAX",
    "READ_BYTES",
    "Answer",
    "Refusal",
    "address_of",
    "beside",
    "knock",
    "peer",
]

LINE_BYTES_MAX: Final = 1024 * 1024
"""The longest request or answer: a tool's result fits, and all connections together hold some 30 MiB."""

READ_BYTES: Final = 64 * 1024
"""Read in one go: what the kernel buffers for a unix socket is not much more."""

_KNOCK_AGAIN_S: Final = 0.02
"""When a client tries again whom the kernel had no room for."""

_ADDRESS_BYTES_MAX: Final = 103
"""The longest path a socket's address takes on every system (macOS; Linux takes four more)."""

_OPEN_FOLDERS: Final = "/proc/self/fd"
"""Where Linux gives an open folder a short name."""

_UCRED: Final = struct.Struct("=iII")
"""Linux's `struct ucred`: process, user, group."""


class Refusal(msgspec.Struct, frozen=True):
    """An error as it is answered: its class's name, and what it says."""

    type: str
    message: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer's line: a value, or an error."""

    ok: Any = msgspec.UNSET
    error: Refusal | msgspec.UnsetType = msgspec.UNSET


def knock(store: Path, verb: str, fields: Mapping[str, Any], *, timeout_s: float = 30.0) -> Any:
    """Ask the runtime that owns a store, wait for its answer and return its value.

    Blocks the calling thread, so never call it where the runtime's own loop runs.

    Args:
        store: the database file.
        verb: what is asked.
        fields: what goes with it; none may be named `verb`.
        timeout_s: for everything together.

    Raises:
        DoorClosed: no runtime could be asked; nothing was done.
        DoorRefused: the runtime answered with an error.
        DoorSilent: no answer came within `timeout_s`, or the runtime went away first; it may have been done.
        ContractViolation, PayloadTooLarge: the fields cannot be sent; nothing was done.
        StorageFailed: the store's path cannot be one.
    """
    deadline = time.monotonic() + timeout_s
    path = beside(store)
    line = _asked(verb, fields)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            _connect(connection, path, deadline)
            _check_owner(connection, store)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise DoorClosed(str(path), "none has the store open") from error
        except OSError as error:
            raise DoorClosed(str(path), str(error)) from error
        try:
            said = _exchange(connection, line, deadline)
            answer = msgspec.json.decode(said, type=Answer)
        except (OSError, ValueError, RecursionError) as error:
            raise DoorSilent(str(path), str(error)) from error
    if isinstance(answer.error, Refusal):
        raise DoorRefused(answer.error.type, answer.error.message)
    if answer.ok is msgspec.UNSET:
        raise DoorSilent(str(path), "it said neither a value nor an error")
    return answer.ok


def _asked(verb: str, fields: Mapping[str, Any]) -> bytes:
    if "verb" in fields:
        raise ContractViolation("the request", "has a field named verb: the name is taken")
    try:
        line = msgspec.json.encode({"verb": verb, **fields}) + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ContractViolation("the request", f"cannot be sent: {error}") from error
    if len(line) > LINE_BYTES_MAX + 1:
        raise PayloadTooLarge("the request", len(line), LINE_BYTES_MAX)
    return line


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    with address_of(path) as address:
        while True:
            connection.settimeout(_left_s(deadline))
            try:
                connection.connect(address)
            except BlockingIOError:  # Linux: more wait to be let in than the kernel holds
                time.sleep(min(_KNOCK_AGAIN_S, _left_s(deadline)))
            else:
                return


def _check_owner(connection: socket.socket, store: Path) -> None:
    """Refuse to tell anything to a door that neither we, nor root, nor the store's owner has opened."""
    uid = peer(connection)
    if uid not in {None, 0, os.geteuid()} and uid != store.stat().st_uid:
        raise PermissionError(f"another user ({uid}) stands behind it")


def _exchange(connection: socket.socket, line: bytes, deadline: float) -> bytes:
    """Send a request and return its answer.

    Raises:
        OSError: the time is up, or the other side closed before it had answered.
    """
    connection.settimeout(_left_s(deadline))
    with suppress(BrokenPipeError, ConnectionResetError):  # the door may have closed with an answer that says why
        connection.sendall(line)
    said = bytearray()
    while not said.endswith(b"\n"):  # it says one line: nothing else was asked
        if len(said) > LINE_BYTES_MAX:
            raise OSError("its answer is too long")
        connection.settimeout(_left_s(deadline))
        chunk = connection.recv(READ_BYTES)
        if not chunk:
            raise ConnectionResetError("it closed before it had answered")
        said += chunk
    return bytes(said)


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def beside(store: Path) -> Path:
    """Return where a store's door is: two names of one store have one door.

    Raises:
        StorageFailed: the store's path cannot be one.
    """
    file = resolve(store)
    return file.with_name(file.name + ".door")


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield a name of a door that a socket's address has room for: where need be, through its opened folder.

    Raises:
        OSError: there is no such name, or the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= _ADDRESS_BYTES_MAX:
        yield str(path)
        return
    if not Path(_OPEN_FOLDERS).is_dir():
        raise OSError("the path is too long for a socket's address")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_OPEN_FOLDERS}/{folder}/{path.name}"
    finally:
        os.close(folder)


def peer(connection: socket.socket) -> int | None:
    """Return whose process is at the other end; None where the system does not tell, and the file's mode must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
