"""The trace of a run: what strace saw it do to one folder, as events that a power cut can be imagined between."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["FOLDER", "Event", "Naming", "NotUnderstood", "Resize", "Sync", "Write", "available", "read", "strace"]

FOLDER: Final = 0
"""The folder's own number; files have one from 1, each file that was ever created its own."""

_CALLS: Final = (
    *("?open", "openat", "?openat2", "?creat", "write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("ftruncate", "truncate", "fallocate", "?rename", "?renameat", "renameat2", "?unlink", "unlinkat"),
    *("?link", "linkat", "?symlink", "symlinkat", "?mkdir", "mkdirat", "?rmdir", "fsync", "fdatasync"),
    *("sync_file_range", "mmap", "copy_file_range", "sendfile", "splice"),
)
"""Whatever can change a file, a size or a name; with a question mark what not every machine has."""

_WRITE_BYTES_MAX: Final = 1 << 26
"""What is shown of one write; strace refuses much more. A longer one is not understood."""

_CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+)(.*)")
_BEGUN: Final = " <unfinished ...>"
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_TEXT: Final = r"((?:\\x[0-9a-f]{2})*)"
_FD: Final = re.compile(rf"\d+<{_TEXT}>(\(deleted\))?")
_NAMES: Final = re.compile(rf'"{_TEXT}"')
_SHARED_MEMORY: Final = "-shm"


class Write(msgspec.Struct, frozen=True, gc=False):
    """Bytes were written at an offset. Places are lines of the trace."""

    started: int
    ended: int
    file: int
    at: int
    data: bytes


class Resize(msgspec.Struct, frozen=True, gc=False):
    """A file was given a size."""

    started: int
    ended: int
    file: int
    size: int


class Sync(msgspec.Struct, frozen=True, gc=False):
    """Everything that had been done to a file, or to the folder's names, before this started was made durable."""

    started: int
    ended: int
    file: int


class Naming(msgspec.Struct, frozen=True, gc=False):
    """Names were given or taken away, together: creating and removing change one, renaming two."""

    started: int
    ended: int
    names: tuple[tuple[str, int | None], ...]


Event = Write | Resize | Sync | Naming


class NotUnderstood(Exception):
    """The run did something to its folder that cannot be imagined half done; the line is shown in part."""

    def __init__(self, line: int, what: str) -> None:
        """Take the line's number, from 0, and what it says."""
        super().__init__(f"line {line + 1} of the trace is not understood: {what[:200]}")


def strace(trace: Path) -> list[str]:
    """Return the words before a command that have it traced into a file."""
    words = ["strace", "-f", "-y", "-xx", "-qq", "-s", str(_WRITE_BYTES_MAX), "--seccomp-bpf", "-e", "signal=none"]
    return [*words, "-e", f"trace={','.join(_CALLS)}", "-o", str(trace)]


@cache
def available() -> str:
    """Return why runs cannot be traced here, "" if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = [*strace(Path("/dev/null")), "true"]
    try:
        tried = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)  # noqa: S603
    except subprocess.TimeoutExpired:
        return "strace does not end"
    return "" if tried.returncode == 0 else f"strace does not work here: {tried.stderr.strip()}"


def read(trace: Path, folder: Path) -> list[Event]:
    """Return what a run did to a folder that was empty before, in the order in which it was done.

    The folder's shared memory file is left out: it is not written but mapped, and SQLite makes it anew.

    Raises:
        NotUnderstood: the run did something that cannot be imagined half done.
    """
    events: list[Event] = []
    state = _Folder(folder.resolve())
    for started, ended, call in _calls(trace):
        events += state.event(started, ended, call)
    return events


def _calls(trace: Path) -> Iterator[tuple[int, int, str]]:
    """Yield each call once, where it ended; with the lines at which it started and ended.

    A call that a thread was in when its process exited never ends: it is not yielded.
    """
    begun: dict[str, tuple[int, str]] = {}
    with trace.open(encoding="ascii") as lines:
        for number, line in enumerate(lines):
            thread, _, said = line.rstrip("\n").partition(" ")
            said = said.lstrip()
            if said.endswith(_BEGUN):
                begun[thread] = number, said.removesuffix(_BEGUN)
            elif resumed := _RESUMED.match(said):
                started, head = begun.pop(thread)
                yield started, number, head + resumed[1]
            else:
                yield number, number, said


class _Folder:
    """What the folder holds as the process sees it, while its trace is read."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{folder}/"
        self._hexed = _hexed(str(folder))
        self._files: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._appended: set[int] = set()

    def event(self, started: int, ended: int, call: str) -> Iterator[Event]:
        """Yield what a call did to the folder, if anything: an open may create a file and empty it."""
        if self._hexed not in call:
            return
        matched = _CALL.fullmatch(call)
        if matched is None:
            raise NotUnderstood(ended, call)
        name, arguments, result, rest = matched.groups()
        if result.startswith("-"):
            return
        match name:
            case "open" | "openat" | "creat":
                yield from self._opened(started, ended, arguments, rest)
            case "write" | "pwrite64":
                yield from self._written(started, ended, (name, arguments, int(result)))
            case "ftruncate":
                yield from self._resized(started, ended, arguments)
            case "fsync" | "fdatasync":
                yield from self._synced(started, ended, arguments)
            case "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat":
                yield from self._named(started, ended, name, arguments)
            case "mmap" if not ("PROT_WRITE" in arguments and "MAP_SHARED" in arguments and self._mapped(arguments)):
                return
            case _:
                raise NotUnderstood(ended, f"{name}({arguments}")

    def _opened(self, started: int, ended: int, arguments: str, rest: str) -> Iterator[Event]:
        opened = _FD.search(f"0{rest}")
        name = self._name(opened[1]) if opened else None
        if name is None:
            return
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = len(self._sizes) + 1
            self._sizes[file] = 0
            yield Naming(started, ended, ((name, file),))
        elif "O_TRUNC" in arguments:
            self._sizes[file] = 0
            yield Resize(started, ended, file, 0)
        if "O_APPEND" in arguments:
            self._appended.add(file)

    def _written(self, started: int, ended: int, call: tuple[str, str, int]) -> Iterator[Event]:
        name, arguments, count = call
        file = self._file(arguments)
        if file is None:
            return
        if name == "write" and file not in self._appended:
            raise NotUnderstood(ended, f"a write without its offset, {arguments}")
        text = _NAMES.search(arguments)
        data = _bytes(text[1])[:count] if text is not None else b""
        if len(data) != count:
            raise NotUnderstood(ended, f"{name}({arguments}")
        at = self._sizes[file] if name == "write" else int(arguments.rpartition(", ")[2])
        self._sizes[file] = max(self._sizes[file], at + count)
        yield Write(started, ended, file, at, data)

    def _resized(self, started: int, ended: int, arguments: str) -> Iterator[Event]:
        file = self._file(arguments)
        if file is not None:
            self._sizes[file] = int(arguments.rpartition(", ")[2])
            yield Resize(started, ended, file, self._sizes[file])

    def _synced(self, started: int, ended: int, arguments: str) -> Iterator[Event]:
        path = _FD.match(arguments)
        if path is not None and path[1] == self._hexed:
            yield Sync(started, ended, FOLDER)
            return
        file = self._file(arguments)
        if file is not None:
            yield Sync(started, ended, file)

    def _named(self, started: int, ended: int, call: str, arguments: str) -> Iterator[Event]:
        old, *new = (self._name(text) for text in _NAMES.findall(arguments))
        if old is None and not new:
            return
        if old is None or None in new:
            raise NotUnderstood(ended, f"a name outside of the folder, {call}({arguments}")
        file = self._files.pop(old)
        names: list[tuple[str, int | None]] = [(old, None)]
        for name in filter(None, new):
            self._files[name] = file
            names.append((name, file))
        yield Naming(started, ended, tuple(names))

    def _mapped(self, arguments: str) -> bool:
        """Say whether it is a file of the folder's that is mapped."""
        found = _FD.search(arguments)
        return found is not None and self._name(found[1]) is not None

    def _file(self, arguments: str) -> int | None:
        """Return the file that a descriptor stands for, None if it has no name any more: nobody will find it."""
        found = _FD.match(arguments)
        name = self._name(found[1]) if found and not found[2] else None
        return self._files[name] if name is not None else None

    def _name(self, text: str) -> str | None:
        """Return a path's name in the folder, None if it is not in it or is shared memory."""
        path = _bytes(text).decode(errors="surrogateescape")
        ours = path.startswith(self._prefix) and not path.endswith(_SHARED_MEMORY)
        return path.removeprefix(self._prefix) if ours else None


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())
