"""The backup: a store copied at one moment, while its owner goes on."""

import os
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from turnkeeper.actors.store.file import explained, resolve
from turnkeeper.actors.store.reader import Reader
from turnkeeper.kernel.errors import StorageFailed

__all__ = ["backup"]

_SIDECARS: Final = ("-wal", "-shm", "-journal", ".lock", ".door")
"""What stands beside a store under its name: SQLite's log, its index and journal, and our owner lock."""

_FOREIGN_LOGS: Final = ("-wal", "-journal")
"""Those that SQLite would apply to a database that is put beside them."""


def backup(source: str | Path, target: str | Path) -> int:
    """Copy a store, as it stands at one moment, into a new file; its owner may run meanwhile.

    The copy is a store: a runtime on it goes on with the turns that were live at that moment. It is made under a
    temporary name beside the target, synced, and given the target's name when it is whole, with the rights of the
    source. Nothing that exists is ever written over. Cut off at any moment, nothing incomplete has the target's name;
    a file `<target>.*.part` may stay, which can be removed (and must be, where the cut fell between the whole copy's
    getting its name and its losing the temporary one: a store may have one name only).

    Blocks until it is done; from a running loop, call it in a thread. The owner's log cannot be restarted meanwhile,
    and grows by what is written.

    Args:
        source: the store.
        target: the file to make; its folder must exist, on a file system that knows hard links.

    Returns:
        The size of the copy, bytes.

    Raises:
        StorageFailed: the source is no store; the target exists, or cannot be made; the disk is full.
        SchemaTooNew: a newer version wrote the source.
    """
    stored, made = resolve(source), _target(target)
    with Reader(stored):
        pass  # it is a store, and can be read
    _check_target(stored, made)
    try:
        handle, name = tempfile.mkstemp(prefix=f"{made.name}.", suffix=".part", dir=made.parent)
        part = Path(name)
        try:
            os.close(handle)
            _copy(stored, part, made)
            size = _sync(part, stat.S_IMODE(stored.stat().st_mode))
            os.link(part, made)  # unlike a rename, it never replaces what has come there meanwhile
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(made.parent)
    except FileExistsError as error:
        raise _exists(made) from error
    except OSError as error:
        raise StorageFailed(str(made), error.strerror or str(error)) from error
    return size


def _target(target: str | Path) -> Path:
    """Return where the copy is to stand: links in its folder are followed, the name itself is taken as it is."""
    resolve(target)
    given = Path(target).expanduser()
    return resolve(given.parent) / given.name


def _check_target(stored: Path, made: Path) -> None:
    """Refuse a target that is there, has no folder, or that SQLite would take for a part of another database."""
    if made == stored:
        raise StorageFailed(str(made), "is the store itself")
    if os.path.lexists(made):
        raise _exists(made)
    if not made.parent.is_dir():
        raise StorageFailed(str(made), f"the folder {made.parent} does not exist")
    if made in {stored.with_name(stored.name + suffix) for suffix in _SIDECARS}:
        raise StorageFailed(str(made), f"is the name of a part of the store {stored}")
    for suffix in _FOREIGN_LOGS:
        if os.path.lexists(left := made.with_name(made.name + suffix)):
            raise StorageFailed(str(made), f"the log of another database is beside it: {left}")


def _exists(made: Path) -> StorageFailed:
    return StorageFailed(str(made), "exists; a backup is made under a new name")


def _copy(stored: Path, part: Path, made: Path) -> None:
    """Copy every page of one snapshot. The copy needs no journal: until it is whole, nobody has it."""
    try:
        with (
            closing(sqlite3.connect(f"{stored.as_uri()}?mode=ro", uri=True, isolation_level=None)) as source,
            closing(sqlite3.connect(part, isolation_level=None)) as copy,
        ):
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")  # synced as a whole, before it gets its name
            source.execute("BEGIN")
            source.execute("SELECT store_id FROM store").fetchone()  # the snapshot begins with a read
            source.backup(copy)
    except sqlite3.Error as error:
        raise explained(str(made), error) from error


def _sync(part: Path, mode: int) -> int:
    """Give the copy its rights and bring it to the disk; return its size, bytes."""
    handle = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fchmod(handle, mode)
        os.fsync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
