"""The file: is it a store, is it ours, is its schema known; and what an error of SQLite's means in words."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from turnkeeper.actors.store.sql import migrations, queries
from turnkeeper.kernel.errors import SchemaTooNew, StorageFailed

__all__ = [
    "APPLICATION_ID",
    "BEING_MADE",
    "UNREADABLE",
    "check_file",
    "check_store",
    "explained",
    "half_made",
    "migrate",
    "resolve",
]

APPLICATION_ID: Final = 0x7475726E
"""`turn` in ASCII: SQLite's own field for telling one application's files from another's."""

UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What reading a store can raise; the second where a text, or the very name of a table, is damaged."""

BEING_MADE: Final = "is being made, or its process died while making it: then a runtime on it mends it"

_MARKS: Final = ("application_id", "user_version", "schema_version")
"""SQLite's own fields that say whose a file is, and which schema it has."""

_READ_ONLY: Final = "read-only: the file and its folder must be writable"
_OLDEST_SQLITE: Final = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_NO_DATABASE: Final = "not a turnkeeper store (no SQLite database)"
_HEADER_BYTES: Final = 100
"""A database's header; of a shorter file SQLite says that it is an empty database."""

_MEANINGS: Final = (
    ("full", "the disk is full; nothing of this was written, and work goes on once there is room"),
    ("not a database", _NO_DATABASE),
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

    Read from the file's own header, because opening a database with its log already changes it.

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
        if not os.access(file, os.R_OK):
            raise StorageFailed(str(file), os.strerror(errno.EACCES))
        if 0 < file.stat().st_size < _HEADER_BYTES and not half_made(file):
            raise StorageFailed(str(file), _NO_DATABASE)
        return _check_header(file)
    except OSError as error:
        raise StorageFailed(str(file), error.strerror or str(error)) from error


def check_store(file: Path) -> None:
    """Refuse what is no store yet, or cannot be one; its schema may be older than this version's.

    Raises:
        StorageFailed, SchemaTooNew: as `check_file`; also where there is nothing, or something half made.
    """
    if not file.exists():
        raise StorageFailed(str(file), "does not exist")
    if not check_file(file):
        raise StorageFailed(str(file), BEING_MADE if half_made(file) else "not a turnkeeper store (an empty file)")


def half_made(file: Path) -> bool:
    """Say whether the making of a store was cut off: SQLite takes it back when it opens the file.

    Later nothing leaves such a journal, because a store that is made is in WAL mode.
    """
    try:
        return file.with_name(file.name + "-journal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _check_header(file: Path) -> int:
    """Return the schema version that a database file's own header tells, whatever its log holds.

    SQLite does the reading. Opened and closed by ourselves, the file would lose every lock that this process has on
    it, as POSIX has it; another process that closes the store then takes the live log of its owner away.
    """
    try:
        try:
            return _check_marks(file, *_marks_at(f"{file.as_uri()}?mode=ro&immutable=1"))
        except sqlite3.DatabaseError as error:
            if "malformed" not in str(error):
                raise
            # its log was being brought in when the disk was full, or its process died: together they are sound
            return _check_marks(file, *_marks_at(f"{file.as_uri()}?mode=ro"))
    except UNREADABLE as error:
        if half_made(file):
            return 0
        raise explained(str(file), error) from error


def _marks_at(uri: str) -> list[int]:
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return _marks(connection)


def _marks(connection: sqlite3.Connection) -> list[int]:
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS]


def _check_marks(file: Path, application: int, version: int, cookie: int) -> int:
    """Return the schema version, if the application's mark is ours, or if nothing has been made in the file yet."""
    if application != APPLICATION_ID and (application or version or cookie):
        raise StorageFailed(str(file), "not a turnkeeper store (another program's SQLite database)")
    if version > len(migrations()):
        raise SchemaTooNew(str(file), version, len(migrations()))
    return int(version)


def migrate(file: Path, store_id: str, created_at: float) -> None:
    """Bring a file's schema up to date, in one transaction: cut off at any moment, it is the old one.

    Raises:
        StorageFailed, SchemaTooNew: see `check_file`; the file is as it was.
    """
    if file.exists() and not os.access(file, os.W_OK):
        raise StorageFailed(str(file), _READ_ONLY)
    try:
        connection = sqlite3.connect(file, isolation_level=None)
        try:
            version = _check_marks(file, *_marks(connection))
            pending = ";".join(migrations()[version:])
            if pending:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {pending}; PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {len(migrations())};"
                )
                if version == 0:
                    connection.execute(queries()["store_created"], (store_id, created_at))
                connection.execute("COMMIT")
        finally:
            connection.close()
    except UNREADABLE as error:
        raise explained(str(file), error) from error


def explained(path: str, error: sqlite3.Error | UnicodeDecodeError) -> StorageFailed:
    """Return SQLite's error in words that say what to do."""
    said = str(error) if isinstance(error, sqlite3.Error) else f"damaged: a text is no UTF-8 ({error.reason})"
    meaning = next((meaning for word, meaning in _MEANINGS if word in said), said)
    return StorageFailed(path, meaning)
