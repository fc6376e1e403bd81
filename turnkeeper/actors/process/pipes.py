"""Pipes: lines in and out of a worker, without blocking the loop and without growing."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from turnkeeper.kernel.envelope import Lines, TooLong

__all__ = ["Inflow", "Outflow"]

_PIECE_BYTES: Final = 65_536
_LAST_BYTES_MAX: Final = 1_048_576
"""What is read of a dead worker's pipe: as much as a pipe can hold, on most machines 64 KiB."""


class Outflow:
    """The worker's stdin: what it does not take at once waits here; whoever writes looks at `unread` before."""

    __slots__ = ("_closing", "_fd", "_loop", "_room", "_shut", "_waiting")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, room: Callable[[], None], shut: Callable[[], None]
    ) -> None:
        """Write to a pipe that does not block.

        Args:
            loop: says when there is room.
            fd: the pipe.
            room: called when the worker has read something that waited.
            shut: called when `end` has been said and all is written.
        """
        self._loop = loop
        self._fd: int | None = fd
        self._waiting = bytearray()
        self._closing = False
        self._room = room
        self._shut = shut

    @property
    def unread(self) -> int:
        """Return how many bytes wait for the worker to read."""
        return len(self._waiting)

    def write(self, line: bytes) -> None:
        """Write a line, now or when there is room; nothing where the pipe is gone."""
        if self._fd is None or self._closing:
            return
        if not self._waiting:
            line = line[self._written(line) :]
        if line and self._fd is not None:
            if not self._waiting:
                self._loop.add_writer(self._fd, self._ready)
            self._waiting += line

    def end(self) -> None:
        """Let the worker see the end of its input, once it has read what waits."""
        self._closing = True
        if not self._waiting:
            self.stop()
            self._shut()

    def stop(self) -> None:
        """Write nothing more; the caller closes the pipe."""
        if self._fd is not None:
            self._loop.remove_writer(self._fd)
            self._fd = None
            self._waiting.clear()

    def _written(self, piece: bytes | bytearray) -> int:
        try:
            return os.write(self._fd, piece) if self._fd is not None else 0
        except BlockingIOError:
            return 0
        except OSError:  # nobody reads any more; its exit is told elsewhere
            self.stop()
            return 0

    def _ready(self) -> None:
        del self._waiting[: self._written(self._waiting[:_PIECE_BYTES])]
        if not self._waiting and self._fd is not None:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self.end()
        self._room()


class Inflow:
    """Lines from a worker's stdout or stderr: a piece at a time, at most so many lines a second, blank ones included.

    Whoever says more waits until the second is over, and so does whoever was asked to wait by `hold`.
    """

    __slots__ = ("_ended", "_fd", "_held", "_lines", "_loop", "_per_s_max", "_said", "_second_s", "_taken", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        lines: Lines,
        taken: Callable[[bytes | TooLong], None],
        ended: Callable[[], None],
        per_s_max: int,
    ) -> None:
        """Read a pipe that does not block: `taken` has each line, `ended` is called at its end."""
        self._loop = loop
        self._fd: int | None = fd
        self._lines = lines
        self._taken = taken
        self._ended = ended
        self._per_s_max = per_s_max
        self._second_s = loop.time()
        self._said = 0
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(fd, self._ready)

    def hold(self, held: bool) -> None:
        """Read nothing for now, or read on."""
        if held is not self._held:
            self._held = held
            self._arm()

    def drain(self) -> None:
        """Read what is left in the pipe of a dead process, and stop."""
        left = _LAST_BYTES_MAX
        while self._fd is not None and left > 0:
            piece = self._read()
            if not piece:
                break
            left -= len(piece)
            self._take(piece)
        self.stop()

    def stop(self) -> None:
        """Read nothing more; the caller closes the pipe."""
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            self._fd = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> bytes | None:
        """Return a piece, b"" at the end, None where there is nothing now."""
        try:
            return os.read(self._fd, _PIECE_BYTES) if self._fd is not None else b""
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _ready(self) -> None:
        piece = self._read()
        if piece is None:
            return
        if piece:
            self._take(piece)
            self._slow_down()
        else:
            self.stop()
            self._ended()

    def _take(self, piece: bytes) -> None:
        for line in self._lines.feed(piece):
            self._said += 1
            if self._fd is None:  # the line before was one too many
                return
            if line:  # a blank one is only counted
                self._taken(line)

    def _slow_down(self) -> None:
        now = self._loop.time()
        if now >= self._second_s + 1:
            self._second_s, self._said = now, 0
        elif self._said > self._per_s_max and self._fd is not None and self._timer is None:
            self._timer = self._loop.call_at(self._second_s + 1, self._go_on)
            self._arm()

    def _go_on(self) -> None:
        self._timer = None
        self._second_s, self._said = self._loop.time(), 0
        self._arm()

    def _arm(self) -> None:
        if self._fd is None:
            return
        if self._held or self._timer is not None:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._ready)
