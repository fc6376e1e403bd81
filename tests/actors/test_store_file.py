"""Opening a store: what is refused and left as it was, who owns a file, and when it is free again."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from looking import until

from turnkeeper.actors.store.file import APPLICATION_ID, check_file
from turnkeeper.actors.store.lock import OwnerLock
from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sql import migrations
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import SchemaTooNew, StorageFailed, StoreInUse
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import ActorOpened, NodeStarted, NodeStopped

NOBODY = 65534


def store_at(path: Path | str) -> SqliteStore:
    return SqliteStore(path, synchronous="OFF", store_id="a1b2", created_at=100.0)


async def visit(path: Path | str) -> None:
    """Open a store and close it, whatever happens."""
    store = store_at(path)
    try:
        await store.open()
    finally:
        await store.close()


@asynccontextmanager
async def owned(path: Path) -> AsyncIterator[SqliteStore]:
    """Own a store for a while."""
    store = store_at(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def refused(path: Path | str) -> StorageFailed:
    """Return why a path cannot be opened as a store."""
    with pytest.raises(StorageFailed) as refusal:
        await visit(path)
    return refusal.value


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder but locks and SQLite's shared memory, which hold nothing of anybody's."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith((".lock", "-shm"))}


def names(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def spoil(path: Path, text: bytes) -> None:
    """Make the eighth byte of a text in a file one that stands in no text."""
    sound = path.read_bytes()
    at = sound.index(text) + 7
    path.write_bytes(sound[:at] + b"\xff" + sound[at + 1 :])


def remove(path: Path) -> None:
    """Remove what is at a path: an empty directory, or a file."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


async def make(path: Path) -> None:
    """Make a store with one actor in it."""
    store = store_at(path)
    await store.open()
    await store.apply([[ActorOpened(1, "", "s", "a")]])
    await store.close()


async def check_whole(path: Path) -> None:
    """Check that a store can be had, with what `make` put into it."""
    store = store_at(path)
    await store.open()
    assert await store.actor_id(Address("", "s", "a")) == 1
    await store.close()


def crashed_copy(path: Path, statement: str) -> Path:
    """Return the copy of a database, with the statement done, whose last writes are still in its log: after a crash."""
    folder = path.parent / "crashed"
    folder.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for each in (statement, "PRAGMA journal_mode = WAL", "PRAGMA wal_checkpoint", "PRAGMA wal_autocheckpoint = 0"):
            connection.execute(each)
        connection.execute("CREATE TABLE last_word (text)")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", folder / f"{path.name}{suffix}")
    return folder / path.name


# ---------------------------------------------------------------- what becomes a store


async def test_a_path_without_a_file_becomes_a_store(path: Path) -> None:
    """Nothing is touched before it is opened; then it is there."""
    store = store_at(path)
    assert names(path.parent) == []
    marks = await store.open()
    await store.close()

    assert (marks.store_id, marks.boot_id, marks.actor_id, marks.receipt_id) == ("a1b2", 0, 0, 0)
    assert path.name in names(path.parent)


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """As the one that tempfile makes."""
    write(path, b"")
    await make(path)

    await check_whole(path)


async def test_a_path_with_odd_characters_is_a_path(tmp_path: Path) -> None:
    """A question mark and a hash, a space, and a byte that is no UTF-8 where the system allows one."""
    path = tmp_path / ("a?b#c d%20\udcff.db" if sys.platform == "linux" else "a?b#c d%20.db")
    await make(path)

    await check_whole(path)
    assert path.name in names(tmp_path)


async def test_a_store_closed_twice_is_closed(path: Path) -> None:
    """Closing is safe at any time, and before opening too."""
    store = store_at(path)
    await store.close()
    await store.open()
    await store.close()
    await store.close()

    with pytest.raises(StorageFailed, match="closed"):
        await store.apply([[ActorOpened(2, "", "s", "b")]])
    with pytest.raises(StorageFailed, match="closed"):
        await store.turn(1)


@pytest.mark.parametrize("cycles", range(4))
async def test_a_closing_that_is_cancelled_closes_all_of_it(path: Path, cycles: int) -> None:
    """Both connections end their threads, or the interpreter would not; and the file is given back."""
    await visit(path)  # the loop's own threads are there from now on
    before = threading.active_count()
    store = store_at(path)
    await store.open()
    closing_it = asyncio.create_task(store.close())
    for _ in range(cycles):
        await asyncio.sleep(0)
    closing_it.cancel()
    await asyncio.wait([closing_it])
    await store.close()

    await until(lambda: threading.active_count() <= before)
    await visit(path)


# ---------------------------------------------------------------- what does not


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    """It stays as it is, and nothing is made beside it."""
    folder = tmp_path / "agents.db"
    folder.mkdir()
    refusal = await refused(folder)

    assert "is a directory" in str(refusal)
    assert names(tmp_path) == ["agents.db"]


async def test_the_root_directory_is_refused() -> None:
    """The one directory without a name."""
    refusal = await refused("/")

    assert "is a directory" in str(refusal)


async def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    """It is not made: a wrong path is a mistake to be seen."""
    refusal = await refused(tmp_path / "missing" / "agents.db")

    assert f"the folder {tmp_path / 'missing'} does not exist" in str(refusal)
    assert names(tmp_path) == []


async def test_a_file_as_a_folder_is_refused(tmp_path: Path) -> None:
    """A path through a file leads nowhere."""
    (tmp_path / "file").touch()
    refusal = await refused(tmp_path / "file" / "agents.db")

    assert str(tmp_path / "file") in str(refusal)


@pytest.mark.parametrize("text", [b"x", b"name,age\nann,7\n", b"SQLite format 2\0" + b"x" * 4_096], ids=len)
async def test_a_file_that_is_no_database_is_refused_and_not_touched(text: bytes, path: Path) -> None:
    """Not one byte of it, and no lock beside it."""
    write(path, text)
    refusal = await refused(path)

    assert "not a turnkeeper store (no SQLite database)" in str(refusal)
    assert names(path.parent) == [path.name]
    assert files(path.parent) == {path.name: text}


async def test_a_damaged_database_is_refused(path: Path) -> None:
    """A header alone makes no database."""
    damaged = b"SQLite format 3\0" + b"\xff" * 8_176
    write(path, damaged)
    refusal = await refused(path)

    assert str(path) in str(refusal)
    assert files(path.parent) == {path.name: damaged}


@pytest.mark.parametrize("text", [b"CREATE TABLE desired", b"CREATE INDEX child_events_path", b"desired TEXT NOT NULL"])
async def test_a_schema_whose_text_is_damaged_is_refused_in_words(text: bytes, path: Path) -> None:
    """Whichever byte of it is no text any more: then what SQLite says of it is none either."""
    await make(path)
    spoil(path, text)
    refusal = await refused(path)

    assert "damaged: a text is no UTF-8" in refusal.reason


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE notes (text)",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 77; CREATE TABLE notes (text)",
        "CREATE TABLE turns (turn_id); CREATE TABLE store (store_id); PRAGMA user_version = 1",
    ],
)
async def test_another_programs_database_is_refused_and_not_touched(statements: str, path: Path) -> None:
    """Whatever it holds: what does not carry our mark is not ours, and is not migrated."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
    before = files(path.parent)
    refusal = await refused(path)

    assert "another program's SQLite database" in str(refusal)
    assert files(path.parent) == before


async def test_another_programs_database_keeps_its_log(path: Path) -> None:
    """What its own program has not yet moved from log to file stays for that program to move."""
    crashed = crashed_copy(path, "CREATE TABLE notes (text)")
    before = files(crashed.parent)
    refusal = await refused(crashed)

    assert "another program's SQLite database" in str(refusal)
    assert files(crashed.parent) == before


async def test_a_newer_schema_is_refused_and_the_file_stays_byte_for_byte(path: Path) -> None:
    """The error says which version is found and which is known."""
    await make(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    before = files(path.parent)
    with pytest.raises(SchemaTooNew) as refusal:
        await visit(path)

    assert (refusal.value.found, refusal.value.known) == (len(migrations()) + 1, len(migrations()))
    assert files(path.parent) == before


async def test_a_newer_schema_is_not_touched_after_a_crash_of_its_version_either(path: Path) -> None:
    """File and log stay as the newer version left them."""
    await make(path)
    crashed = crashed_copy(path, f"PRAGMA user_version = {len(migrations()) + 1}")
    before = files(crashed.parent)
    with pytest.raises(SchemaTooNew):
        await visit(crashed)

    assert files(crashed.parent) == before


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800", "a\ud800.db"], ids=ascii)
async def test_a_path_with_a_nul_or_a_lone_surrogate_is_refused(name: str, tmp_path: Path) -> None:
    """No file can have such a name; the error is ours, not the codec's."""
    refusal = await refused(f"{tmp_path}/{name}")

    assert "not a usable path" in str(refusal)
    assert names(tmp_path) == []


async def test_a_name_too_long_for_the_system_is_refused(tmp_path: Path) -> None:
    """For the file, or for the lock beside it."""

    assert "too long" in str(await refused(tmp_path / ("x" * 300)))
    assert "too long" in str(await refused(tmp_path / ("x" * 253)))


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda path: path.write_text("text")], ids=["directory", "text"])
async def test_a_path_that_was_refused_can_be_had_once_it_is_mended(
    spoil: Callable[[Path], object], path: Path
) -> None:
    """A refusal leaves no lock behind, and the same object may try again."""
    spoil(path)
    store = store_at(path)
    with pytest.raises(StorageFailed):
        await store.open()
    remove(path)
    marks = await store.open()
    await store.close()

    assert marks.store_id == "a1b2"


async def test_a_refused_schema_leaves_the_file_unlocked(path: Path) -> None:
    """Whoever upgrades can open it at once."""
    await make(path)
    old_version = store_at(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        with pytest.raises(SchemaTooNew):
            await old_version.open()
        connection.execute(f"PRAGMA user_version = {len(migrations())}")

    await check_whole(path)


async def test_a_store_of_ours_without_its_rows_is_migrated(path: Path) -> None:
    """A crash after the file was marked and before its first migration leaves a store to be made."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    await make(path)

    await check_whole(path)


# ---------------------------------------------------------------- permissions

OPEN_AS_NOBODY = """
import asyncio, os, sys, tempfile
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import StorageFailed

async def say(path):
    store = SqliteStore(path, store_id="a1b2", created_at=100.0)
    try:
        await store.open()
    except StorageFailed as refusal:
        return refusal.reason
    await store.close()
    return "opened"

with tempfile.TemporaryDirectory() as folder:  # imports whatever opening imports, while it may be read
    asyncio.run(say(f"{folder}/warm.db"))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(asyncio.run(say(sys.argv[1])))
"""


@contextmanager
def folder_of_nobody() -> Iterator[Path]:
    """Give a folder that a process without privileges can reach, with what is in it made that process's own.

    pytest's own folders are closed to other users, and permissions do not bind root: so the tests below give their
    files away and open them from a process that has put its privileges down.
    """
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def open_as_nobody(path: Path) -> str:
    """Open a store from a process that permissions bind; return what it says."""
    if os.geteuid() == 0:
        for entry in (path.parent, *path.parent.iterdir()):
            os.chown(entry, NOBODY, NOBODY)
    command = [sys.executable, "-c", OPEN_AS_NOBODY, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


async def test_a_file_and_a_folder_of_ones_own_can_be_opened_without_privileges() -> None:
    """The refusals below are for their own reasons."""
    with folder_of_nobody() as folder:
        await make(folder / "agents.db")

        assert open_as_nobody(folder / "agents.db") == "opened"
        assert open_as_nobody(folder / "new.db") == "opened"


async def test_a_read_only_file_is_refused() -> None:
    """At once, not at its first write: what cannot be written cannot be had."""
    with folder_of_nobody() as folder:
        await make(folder / "agents.db")
        (folder / "agents.db").chmod(0o400)

        assert open_as_nobody(folder / "agents.db") == "read-only: the file and its folder must be writable"


async def test_a_store_in_a_read_only_folder_is_refused() -> None:
    """SQLite needs its log beside the file."""
    with folder_of_nobody() as folder:
        await make(folder / "agents.db")
        folder.chmod(0o500)
        said = open_as_nobody(folder / "agents.db")
        folder.chmod(0o700)

        assert said == "read-only: the file and its folder must be writable"


async def test_a_new_store_in_a_read_only_folder_is_refused() -> None:
    """Nothing can be made there."""
    with folder_of_nobody() as folder:
        folder.chmod(0o500)
        said = open_as_nobody(folder / "agents.db")
        folder.chmod(0o700)

        assert said == "Permission denied"
        assert names(folder) == []


async def test_an_unreadable_file_is_refused() -> None:
    """Somebody else's store stays that."""
    with folder_of_nobody() as folder:
        await make(folder / "agents.db")
        (folder / "agents.db").chmod(0o000)

        assert open_as_nobody(folder / "agents.db") == "Permission denied"


# ---------------------------------------------------------------- one owner

OWN = """
import asyncio, sys
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.records import ActorOpened, NodeStarted, NodeStopped

async def main():
    store = SqliteStore(sys.argv[1], store_id="a1b2", created_at=100.0)
    await store.open()
    await store.apply([[ActorOpened(1, "", "s", "a")]])
    print("owned", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(main())
"""


@contextmanager
def another_owner(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Let another process own a store until it is told to go, or is killed."""
    command = [sys.executable, "-c", OWN, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        try:
            yield process
        finally:
            process.kill()


async def test_a_store_owned_by_another_process_is_refused_and_names_it(path: Path) -> None:
    """The error says which process to look for; readers are another matter."""
    with another_owner(path) as owner:
        with pytest.raises(StoreInUse) as refusal:
            await visit(path)

        assert (refusal.value.path, refusal.value.owner) == (str(path), f"process {owner.pid}")


async def test_a_store_owned_by_this_process_is_refused_and_its_owner_goes_on(path: Path) -> None:
    """A second runtime beside the first is the same mistake, and costs the first nothing."""
    async with owned(path) as owner:
        for _ in range(2):
            with pytest.raises(StoreInUse) as refusal:
                await visit(path)
            assert refusal.value.owner == f"process {os.getpid()}"
        await owner.apply([[ActorOpened(1, "", "s", "a")]])

    await check_whole(path)


async def test_a_store_has_one_owner_under_all_its_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link, a relative path and a path with dots lead to the same file."""
    link = path.with_name("link.db")
    link.symlink_to(path)
    monkeypatch.chdir(path.parent)
    async with owned(path):
        for name in (link, path.name, f"{path.parent}/../{path.parent.name}/{path.name}"):
            with pytest.raises(StoreInUse):
                await visit(name)

    await make(link)


async def test_a_closed_store_is_free_at_once(path: Path) -> None:
    """For the next owner, in this process or another."""
    await make(path)
    with another_owner(path.with_name("other.db")):
        pass

    await check_whole(path)


async def test_a_store_is_free_at_once_after_its_owner_was_killed(path: Path) -> None:
    """kill -9 gives the lock back with the process: no lease is waited for, and what was committed is there."""
    with another_owner(path) as owner:
        owner.kill()
        owner.wait()

        await check_whole(path)


async def test_a_lock_file_that_a_dead_owner_left_is_no_lock(path: Path) -> None:
    """What counts is the lock of the living, not the note of the dead."""
    await make(path)
    lock = path.with_name(f"{path.name}.lock")
    lock.write_text(f"process {10**30}\n")

    await check_whole(path)
    assert lock.read_text() == f"process {os.getpid()}\n"


def test_a_lock_given_back_twice_or_never_taken_is_no_error(path: Path) -> None:
    """Release does nothing where nothing is held, and takes nothing from the next owner."""
    first, second = OwnerLock(), OwnerLock()
    first.release()
    first.acquire(path)
    first.release()
    second.acquire(path)
    first.release()

    with pytest.raises(StoreInUse):
        first.acquire(path)
    second.release()


async def test_looking_at_a_file_takes_no_lock_of_its_owner_away(path: Path) -> None:
    """POSIX drops a process's locks on a file when it closes any descriptor of it; then a stranger deletes the log."""
    said = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1])"
    stranger = f"{said}; c.execute('SELECT 1 FROM store').fetchall(); c.close()"
    store = SqliteStore(path, store_id="a1b2", created_at=100.0)
    await store.open()
    try:
        await store.apply([[NodeStarted(1, 1, 1.0, 2.0)]])
        check_file(path)
        with Reader(path):
            pass
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", stranger, str(path)], check=True)

        assert path.with_name(f"{path.name}-wal").exists()
        await store.apply([[NodeStopped(3.0, 1)]])
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT stopped_at FROM nodes").fetchall() == [(3.0,)]
    finally:
        await store.close()
