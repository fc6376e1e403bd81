"""The door: how a running runtime is asked by other programs of its user, on a unix socket beside its store."""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast
from weakref import WeakSet

import msgspec

from turnkeeper.actors.node import logger
from turnkeeper.kernel.errors import ContractViolation, PayloadTooLarge, StorageFailed, TurnkeeperError
from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.supervisors.knock import (
    LINE_BYTES_MAX,
    READ_BYTES,
    Answer,
    Refusal,
    address_of,
    beside,
    peer,
)

__all__ = ["Door", "Verb"]

Verb = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""What a door does when asked: takes the request's other fields, returns what msgspec can write as JSON.

It checks the fields itself, and says by a `TurnkeeperError` what it refuses.
"""

_CONNECTIONS_MAX: Final = 32
"""Connections served at once. People and scripts ask, one at a time; whoever comes beyond that waits to be let in."""

_WAITING_MAX: Final = 128
"""Connections that the kernel holds until they are let in; one more tries again until its time is up."""

_MESSAGE_LEN_MAX: Final = 4096
"""An error's message is for a person's screen; some errors quote values of any size."""

_PATIENCE_S: Final = 10.0
"""For a request to come whole, and for its answer to be taken: programs on one machine need milliseconds."""

_LAST_ANSWERS_S: Final = 1.0
"""How long closing waits for answers under way: a commit takes milliseconds, and a runtime's closing is bounded."""

_AGAIN_S: Final = 1.0
"""When letting in is tried again after the process ran out of descriptors."""

_OWNERS_ALONE: Final = 0o600
_FAILED: Final = Answer(error=Refusal("InternalError", "the runtime could not answer; its log says why"))


class Door:
    """A local socket into a running runtime, for its own user and root.

    Promises: nobody else can connect, from the first moment on. A line is bounded in size and time, connections in
    number. What is not understood gets an error and changes nothing. No request's content comes into a log, but for
    what a verb that crashes says itself. A verb goes on when its caller goes away.
    """

    __slots__ = (
        "__weakref__",
        "_answering",
        "_connections",
        "_identity",
        "_listening",
        "_log",
        "_loop",
        "_path",
        "_patience_s",
        "_store",
        "_verbs",
    )

    def __init__(self, store: Path, verbs: Mapping[str, Verb], *, patience_s: float = _PATIENCE_S) -> None:
        """Describe a door; nothing is touched before `open`.

        Args:
            store: the database file beside which the socket stands.
            verbs: what may be asked, by name.
            patience_s: how long a connection may take to send a request, or to take its answer.
        """
        self._store = store
        self._verbs = dict(verbs)
        self._patience_s = patience_s
        self._log = logger()
        self._path = store
        self._identity: tuple[int, int] | None = None
        self._listening: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def start(self, exited: Exited) -> Awaitable[None]:  # noqa: ARG002 - it does not end by itself
        """Open, as a child."""

        async def opening() -> None:
            await self.open()

        return opening()

    def stop(self, shutdown_s: float) -> Awaitable[None]:  # noqa: ARG002 - bounded by itself
        """Close, as a child."""
        return self.close()

    async def open(self) -> bool:
        """Take requests from now on; return False, with `door.unavailable` in the log, where that cannot be.

        The caller holds the store's owner lock: a socket that stands there was left by a dead process, and is
        replaced. Anything else that stands there stays. Never raises for what the file system refuses.
        """
        try:
            self._path = beside(self._store)
            listening, self._identity = _listen(self._path)
        except (OSError, StorageFailed) as error:
            self._log.warning("door.unavailable", path=str(self._path), reason=str(error))
            return False
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        _open.add(self)
        self._let_in()
        return True

    async def close(self) -> None:
        """Let nobody in any more, give answers under way a second, and end every connection. Safe to call twice.

        The socket's file is removed where it is still this door's.
        """
        listening = self._listening
        if listening is None:
            return
        self._listening = None
        _open.discard(self)
        self._loop.remove_reader(listening)
        self._remove()  # before the socket is closed: until then nobody else's file can have its inode
        listening.close()
        tasks = set(self._connections)
        for task in tasks - self._answering:
            task.cancel()
        try:
            await _ended(tasks, _LAST_ANSWERS_S)
        finally:
            for task in tasks:
                task.cancel()
        for _ in await _ended(set(self._connections), _LAST_ANSWERS_S):
            self._log.error("door.verb_would_not_stop")

    def leave(self) -> None:
        """Close the sockets' descriptors and nothing else, in a fork's child: loop and file are the parent's."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in self._connections.values():
            connection.close()

    def _remove(self) -> None:
        with suppress(OSError):  # gone already, or the folder is: either way nothing of ours is left there
            if _identity(self._path) == self._identity:
                self._path.unlink()

    def _let_in(self) -> None:
        if self._listening is not None and len(self._connections) < _CONNECTIONS_MAX:
            self._loop.add_reader(self._listening, self._accept, self._listening)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors, say: the one who waits would wake the loop again and again
            self._log.warning("door.cannot_accept", error=str(error))
            self._loop.remove_reader(listening)
            self._loop.call_later(_AGAIN_S, self._let_in)
            return
        uid = peer(connection)
        if uid not in {None, 0, os.geteuid()}:
            self._log.warning("door.stranger", uid=uid)
            connection.close()
            return
        connection.settimeout(0)
        task = self._loop.create_task(self._serve(connection), name="turnkeeper.door")
        self._connections[task] = connection
        task.add_done_callback(self._left)
        if len(self._connections) >= _CONNECTIONS_MAX:
            self._loop.remove_reader(listening)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._connections.pop(task).close()  # here, because a task cancelled before it began has no `finally`
        self._let_in()

    async def _serve(self, connection: socket.socket) -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        received = bytearray()
        with suppress(OSError):  # the caller went away, or takes its answer too slowly
            while self._listening is not None:
                try:
                    line = await self._line(connection, received)
                except ContractViolation as broken:  # nobody knows where the next request begins
                    await self._send(connection, _written(_refusal(broken)))
                    return
                if line is None:
                    return
                self._answering.add(me)
                await self._send(connection, await self._answer(line))
                self._answering.discard(me)
                await asyncio.sleep(0)  # reading and sending need not wait: a stream of requests would hold the loop

    async def _line(self, connection: socket.socket, received: bytearray) -> bytes | None:
        """Return the next request without its newline, None where the caller has no more of them.

        Raises:
            ContractViolation: the line is too long, too slow, or was cut off.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                looked = 0
                while (end := received.find(b"\n", looked)) < 0 and (looked := len(received)) <= LINE_BYTES_MAX:
                    chunk = await self._loop.sock_recv(connection, READ_BYTES)
                    if not chunk:
                        _take_leave(received, "ended without a newline")
                        return None
                    received += chunk
        except TimeoutError:
            _take_leave(received, f"did not come whole within {self._patience_s:g} s")
            return None
        if not 0 <= end <= LINE_BYTES_MAX:
            raise ContractViolation("the request", f"is longer than {LINE_BYTES_MAX} bytes")
        line = bytes(received[:end])
        del received[: end + 1]
        return line

    async def _answer(self, line: bytes) -> bytes:
        """Do what a line asks, and return the answer's line."""
        verb = None
        try:
            verb, fields = self._understood(line)
            return _written(Answer(ok=await self._verbs[verb](fields)))
        except TurnkeeperError as error:
            return _written(_refusal(error))
        except Exception as error:  # noqa: BLE001 - a verb's bug, or a value JSON cannot hold: the runtime goes on
            self._log.error("door.verb_failed", verb=verb, exc_info=error)
            return _written(_FAILED)

    def _understood(self, line: bytes) -> tuple[str, dict[str, Any]]:
        """Return a request's verb and its other fields.

        Raises:
            ContractViolation: it is no JSON object, or has no verb that this door knows.
        """
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise ContractViolation("the request", f"is no JSON object: {error}") from error
        verb = fields.pop("verb", None)
        if not isinstance(verb, str) or verb not in self._verbs:
            raise ContractViolation("the request's verb", f"is not one of {', '.join(sorted(self._verbs)) or 'none'}")
        return verb, fields

    async def _send(self, connection: socket.socket, line: bytes) -> None:
        async with asyncio.timeout(self._patience_s):
            await self._loop.sock_sendall(connection, line)


_open: WeakSet[Door] = WeakSet()


def _leave_in_child() -> None:
    """Leave the doors a fork has copied: a child that outlives its parent would keep its parent's callers waiting."""
    for door in list(_open):
        door.leave()
    _open.clear()


os.register_at_fork(after_in_child=_leave_in_child)


def _listen(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """Return a socket that listens at a path for its owner alone, and which file that is.

    Raises:
        OSError: it cannot be made there, or something stands there that is no socket.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError("something that is no socket stands there")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(OSError):  # Linux gives the file the socket's own mode, so it is born with it; others refuse this
            os.fchmod(listening.fileno(), _OWNERS_ALONE)
        with address_of(path) as address:
            listening.bind(address)  # refuses to take the place of anything
        if stat.S_IMODE(path.lstat().st_mode) != _OWNERS_ALONE:
            path.chmod(_OWNERS_ALONE)  # soon enough: before it listens, nobody can connect
        listening.listen(_WAITING_MAX)
        listening.settimeout(0)
        return listening, _identity(path)
    except BaseException:
        listening.close()
        raise


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


async def _ended(tasks: set[asyncio.Task[None]], within_s: float) -> set[asyncio.Task[None]]:
    """Wait for tasks, and return those that have not ended in time."""
    return (await asyncio.wait(tasks, timeout=within_s))[1] if tasks else set()


def _take_leave(received: bytearray, how: str) -> None:
    """Let a caller go between two requests, and refuse one who has begun another.

    Raises:
        ContractViolation: part of a request has come.
    """
    if received:
        raise ContractViolation("the request", how)


def _refusal(error: TurnkeeperError) -> Answer:
    message = str(error)[:_MESSAGE_LEN_MAX].encode(errors="replace").decode()  # a path may hold what JSON cannot
    return Answer(error=Refusal(type(error).__name__, message))


def _written(answer: Answer) -> bytes:
    """Return an answer's line.

    Raises:
        PayloadTooLarge: the value is longer than a line may be.
        Exception: msgspec's, for a value that JSON cannot hold.
    """
    line = msgspec.json.encode(answer)
    if len(line) > LINE_BYTES_MAX:
        raise PayloadTooLarge("the answer", len(line), LINE_BYTES_MAX)
    return line + b"\n"
