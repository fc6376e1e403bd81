"""The effects file: the outside world of a replay, where each effect is one line that happened or did not."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Self

import msgspec

from turnkeeper.cli.conversations import BadInput

__all__ = ["EffectLine", "EffectsFile", "read_effects"]


class EffectLine(msgspec.Struct, frozen=True):
    """One effect that happened: its step's idempotency key, and what was done."""

    key: str
    tool: str
    arguments: str


_BEGINNING = b'{"key":"'
_decoder = msgspec.json.Decoder(EffectLine)


def read_effects(file: Path) -> tuple[list[EffectLine], int]:
    """Return the effects of a file, and the number of bytes they fill.

    What follows the last line end is an effect that did not happen: its write was cut off.

    Raises:
        BadInput: the file cannot be read, or holds something else.
    """
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise BadInput(file, None, "is no regular file")
        content = file.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise BadInput(file, None, error.strerror or str(error)) from error
    whole, _, cut = content.rpartition(b"\n")
    found: list[EffectLine] = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            found.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(file, number, f"is no line of an effects file: {error}") from error
    if not (cut.startswith(_BEGINNING) or _BEGINNING.startswith(cut)):
        raise BadInput(file, len(found) + 1, "is no line of an effects file")
    return found, len(content) - len(cut)


class EffectsFile:
    """Appends effects, each one line, synced to the disk before it counts as happened."""

    def __init__(self, file: Path) -> None:
        """Name the file; nothing is touched before it is entered."""
        self.file = file
        self._keys: set[str] = set()
        self._one_at_a_time = asyncio.Lock()
        self._fd = -1

    def __enter__(self) -> Self:
        """Open the file for this process alone, and cut off what an interrupted write left.

        Raises:
            BadInput: it is no effects file, cannot be opened, or another process has it.
        """
        read_effects(self.file)  # refuse what is something else before it is opened for writing
        self._fd = self._open()
        while os.fstat(self._fd).st_nlink == 0:  # another process took its empty file away as it ended
            os.close(self._fd)
            self._fd = self._open()
        effects, size = read_effects(self.file)
        os.ftruncate(self._fd, size)
        self._keys = {effect.key for effect in effects}
        return self

    def _open(self) -> int:
        try:
            fd = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BadInput(self.file, None, error.strerror or str(error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise BadInput(self.file, None, "in use by another process") from error
        return fd

    def __exit__(self, *_: object) -> None:
        """Close the file; one in which nothing happened does not stay."""
        if os.fstat(self._fd).st_size == 0:
            self.file.unlink(missing_ok=True)
        os.close(self._fd)

    def happened(self, key: str) -> bool:
        """Say whether the effect of this key has happened: the probe's question."""
        return key in self._keys

    async def append(self, effect: EffectLine) -> None:
        """Let an effect happen: its line is on the disk when this returns.

        Raises:
            OSError: it could not be written; then it did not happen, and nothing of it is left.
        """
        async with self._one_at_a_time:
            await asyncio.to_thread(self._write, msgspec.json.encode(effect) + b"\n")
            self._keys.add(effect.key)

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._fd).st_size
        try:
            while line:  # a full disk takes part of it first, and says so at the rest
                line = line[os.write(self._fd, line) :]
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)
            raise
