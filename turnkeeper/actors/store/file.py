"""The file: is it a store, is it ours, is its schema known; and what an error of SQLite's means in words."""

import os
import sqlite3
import struct
from pathlib import Path
from typing import Final

from turnkeeper.actors.store.sql import migrations, queries
from turnkeeper.kernel.errors import SchemaTooNew, StorageFailed

__all__ = ["APPLICATION_ID", "check_file", "explained", "half_made", "migrate", "resolve"]

APPLICATION_ID: Final = 0x7475726E
"""`turn` in ASCII: SQLite's own field for telling one application's files from another's."""

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = struct.Struct(">40xI16xI4xI")
"""Where a database's first 72 bytes hold its schema cookie, its user version and its application id."""

_MARKS: Final = ("application_id", "user_version", "schema_version")
"""The same as pragmas, which see what a log holds that the header does not yet."""

_READ_ONLY: Final = "read-only: the file and its folder must be writable"
_OLDEST_SQLITE: Final = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_MEANINGS: Final = (
    ("full", "the disk is full; nothing of this was written, and work goes on once there is room"),
    ("not a database", "not a turnkeeper store (no SQLite database)"),
    ("readonly", _READ_ONLY),
    ("unable to open", "cannot be opened: check that its folder exists and may be written"),
    ("locked", "locked by another program"),
)


def resolve(path: str | Path) -> Path:
    """Return the one path of a file, so that two names of it have one owner lock.

    Raises:
        StorageFailed: the path cannot be one.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageFailed(repr(path), f"not a usable path: {error}") from error


def check_file(file: Path) -> int:
    """Return the schema version of a store, 0 where there is none yet; refuse a path that cannot be one.

    Read from the file's own header, because opening a database that has a log already changes it.

    Raises:
        StorageFailed: a directory, a missing folder, another program's file, an SQLite without STRICT tables.
        SchemaTooNew: a newer version of this one wrote it.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StorageFailed(str(file), f"needs SQLite 3.37 or later, this Python has {sqlite3.sqlite_version}")
    try:
        if file.is_dir():
            raise StorageFailed(str(file), "is a directory; a store is one file")
        if file.exists() and not file.is_file():
            raise StorageFailed(str(file), "is no regular file")
        if file.exists() and file.stat().st_nlink > 1:
            raise StorageFailed(str(file), "has a second name (a hard link), under which it could have a second owner")
        if not file.exists():
            if not file.parent.is_dir():
                raise StorageFailed(str(file), f"the folder {file.parent} does not exist")
            return 0
        with file.open("rb") as opened:
            head = opened.read(_HEADER.size)
        if not head.startswith(_MAGIC) and half_made(file):
            return 0
    except OSError as error:
        raise StorageFailed(str(file), error.strerror or str(error)) from error
    return _check_header(file, head) if head else 0


def half_made(file: Path) -> bool:
    """Say whether the making of a store was cut off: SQLite takes it back when it opens the file.

    Later nothing leaves such a journal, because a store that is made is in WAL mode.
    """
    try:
        return file.with_name(file.name + "-journal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _check_header(file: Path, head: bytes) -> int:
    """Return the schema version that a database file's first bytes tell; for their places see SQLite's file format."""
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise StorageFailed(str(file), "not a turnkeeper store (no SQLite database)")
    cookie, version, application = _HEADER.unpack(head)
    return _check_marks(file, application, version, cookie)


def _check_marks(file: Path, application: int, version: int, cookie: int) -> int:
    """Return the schema version, if the application's mark is ours, or if nothing has been made in the file yet."""
    if application != APPLICATION_ID and (application or version or cookie):
        raise StorageFailed(str(file), "not a turnkeeper store (another program's SQLite database)")
    if version > len(migrations()):
        raise SchemaTooNew(str(file), version, len(migrations()))
    return int(version)


def migrate(file: Path, store_id: str, created_at: float) -> None:
    """Bring a file's schema up to date, each migration in a transaction of its own.

    Raises:
        StorageFailed, SchemaTooNew: see `check_file`; the file is as it was.
    """
    if file.exists() and not os.access(file, os.W_OK):
        raise StorageFailed(str(file), _READ_ONLY)
    try:
        connection = sqlite3.connect(file, isolation_level=None)
        try:
            version = _check_marks(file, *(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS))
            for number, migration in enumerate(migrations()[version:], version + 1):
                connection.executescript(
                    f"BEGIN IMMEDIATE; {migration}; PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {number}; COMMIT;"
                )
            if not connection.execute("SELECT count(*) FROM store").fetchone()[0]:
                connection.execute(queries()["store_created"], (store_id, created_at))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise explained(str(file), error) from error


def explained(path: str, error: sqlite3.Error) -> StorageFailed:
    """Return SQLite's error in words that say what to do."""
    said = str(error)
    meaning = next((meaning for word, meaning in _MEANINGS if word in said), said)
    return StorageFailed(path, meaning)
