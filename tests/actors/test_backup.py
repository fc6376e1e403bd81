"""The backup: one whole moment of a store that goes on, or nothing at all under the target's name."""

import asyncio
import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from looking import FAST, check_invariants, dump, rows, until

from turnkeeper import Runtime, Turn, agent
from turnkeeper.actors.store import backup as module
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.backup import backup
from turnkeeper.actors.store.file import migrate
from turnkeeper.kernel.errors import StorageFailed

STEPS = ("_copy", "_sync", "_sync_folder")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where a copy is to stand, in a folder that is there and empty."""
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "copy.db"


@pytest.fixture
def store(path: Path) -> Path:
    """A store of which nothing is in memory."""
    migrate(path, "a1b2", 100.0)
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO nodes VALUES (?, 1, 1.0, 1.0, NULL)", [(boot,) for boot in range(1, 500)])
    connection.close()
    return path


@agent("echo")
async def echo(turn: Turn) -> object:
    """Answer with what came."""
    return turn.input


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def check_whole(copy: Path) -> None:
    """Check that a copy is a store by everything an audit knows, and stands alone in its folder."""
    assert names(copy.parent) == [copy.name]
    assert audit(copy).violations == []
    check_invariants(copy)


def refused(source: object, target: object) -> str:
    """Return why no backup was made."""
    with pytest.raises(StorageFailed) as refusal:
        backup(source, target)
    return str(refusal.value)


# ---------------------------------------------------------------- a whole moment


def test_a_copy_is_all_of_a_store_with_its_rights(store: Path, copy: Path) -> None:
    """The same rows; the size is what is returned; nothing else is left in either folder."""
    store.chmod(0o640)
    before = names(store.parent)
    size = backup(str(store), str(copy))

    assert size == copy.stat().st_size > 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert copy.stat().st_nlink == 1
    assert set(names(store.parent)) - set(before) <= {f"{store.name}-wal", f"{store.name}-shm"}
    assert rows(copy, "SELECT * FROM nodes") == rows(store, "SELECT * FROM nodes")
    assert rows(copy, "SELECT * FROM store") == [("a1b2", 100.0)]
    for sidecar in ("-wal", "-shm"):
        copy.with_name(copy.name + sidecar).unlink(missing_ok=True)  # of the reading just now
    check_invariants(copy)


async def test_copies_of_a_store_that_is_written_are_whole_and_lack_nothing_acknowledged(
    path: Path, copy: Path
) -> None:
    """Every one is a moment after the last acknowledgement before it; the owner never waits for one."""
    told = 0

    async def telling(runtime: Runtime, session: str) -> None:
        nonlocal told
        for number in range(60):
            await runtime.ask(session, "echo", {"number": number, "text": "x" * 2_000})
            told += 1

    async with Runtime(path, [echo], settings=FAST) as runtime:
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(telling(runtime, f"s{number}")) for number in range(4)]
            made, overtaken = 0, 0
            while not all(task.done() for task in asking):
                acknowledged = told
                target = copy.with_name(f"{made}.db")
                await asyncio.to_thread(backup, path, target)
                made += 1
                stored = rows(target, "SELECT count(*) FROM turns WHERE state = 'completed'")[0][0]
                assert acknowledged <= stored <= 4 * 60
                overtaken += told > acknowledged

        assert overtaken > 0, "nothing was written while a copy was made"
    for number in range(made):
        target = copy.with_name(f"{number}.db")
        assert audit(target).violations == []
        check_invariants(target)


async def test_the_live_turns_of_a_copy_go_on_in_a_runtime_on_it(path: Path, copy: Path) -> None:
    """A running turn and one that waits behind it; what the owner does later is its own."""
    gate = asyncio.Event()
    started: list[object] = []

    @agent("play")
    async def play(turn: Turn) -> object:
        started.append(turn.input)
        await gate.wait()
        return {"did": turn.input}

    async with Runtime(path, [play], settings=FAST) as runtime:
        await runtime.tell("s", "play", 1, key="one")
        await runtime.tell("s", "play", 2, key="two")
        await until(lambda: started)
        await asyncio.to_thread(backup, path, copy)
        gate.set()
        await runtime.ask("s", "play", 3, key="three")

    assert audit(copy).violations == []
    assert [state for (state,) in rows(copy, "SELECT state FROM turns ORDER BY turn_id")] == ["running", "queued"]
    async with Runtime(copy, [play], settings=FAST) as runtime:
        with anyio.fail_after(10):
            for key, value in (("one", 1), ("two", 2)):
                receipt = await runtime.receipt("s", "play", key)
                assert receipt is not None
                assert (await receipt.deliverable()).value == {"did": value}
        assert await runtime.receipt("s", "play", "three") is None
        assert (await runtime.ask("s", "play", 4)).value == {"did": 4}
    check_invariants(copy)
    assert audit(copy).violations == []


async def test_what_a_killed_owner_left_in_its_log_is_in_the_copy(path: Path, copy: Path) -> None:
    """A copy of a file without its log would lack it; the store itself is as it was."""
    program = (
        "import asyncio, os, signal, sys; from turnkeeper import Runtime, agent\n"
        "@agent('echo')\nasync def echo(turn): return turn.input\n"
        "async def main():\n"
        "    async with Runtime(sys.argv[1], [echo]) as runtime:\n"
        "        await runtime.ask('s', 'echo', 1)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    killed = await anyio.run_process([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    backup(path, copy)

    assert rows(copy, "SELECT state FROM turns") == [("completed",)]
    assert dump(copy) == dump(path)


# ---------------------------------------------------------------- what is refused


def test_nothing_that_exists_is_written_over(store: Path, copy: Path, tmp_path: Path) -> None:
    """A file, an empty one, a folder, a link that leads nowhere, the store itself under any name."""
    notes, empty, dangling, alias = tmp_path / "notes", tmp_path / "empty", tmp_path / "dangling", tmp_path / "alias"
    notes.write_text("notes")
    empty.touch()
    dangling.symlink_to(copy)
    alias.symlink_to(store)
    content = store.read_bytes()

    for target in (notes, empty, dangling, alias, tmp_path):
        assert f"{target}: exists; a backup is made under a new name" in refused(store, target)
    assert refused(store, store) == f"{store}: is the store itself"
    assert refused(alias, store.parent / "." / store.name) == f"{store}: is the store itself"
    assert (notes.read_text(), empty.read_bytes(), store.read_bytes()) == ("notes", b"", content)
    assert dangling.is_symlink()
    assert names(copy.parent) == []


def test_a_target_that_cannot_be_is_refused_with_its_reason(store: Path, tmp_path: Path) -> None:
    """A missing folder, a file for a folder, no path at all; nothing is made."""
    before = names(tmp_path)

    assert f"the folder {tmp_path / 'missing'} does not exist" in refused(store, tmp_path / "missing" / "copy.db")
    assert f"the folder {store} does not exist" in refused(store, store / "copy.db")
    assert "not a usable path" in refused(store, "a\0b")
    assert "too long" in refused(store, tmp_path / ("x" * 300))
    assert set(names(tmp_path)) - set(before) <= {f"{store.name}-wal", f"{store.name}-shm"}


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", ".lock"])
def test_a_name_that_is_a_part_of_the_store_is_refused(suffix: str, store: Path) -> None:
    """SQLite would take the copy for the store's own log."""
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    said = refused(store, f"{store}{suffix}")

    assert "is the name of a part of the store" in said or "exists" in said


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_of_another_database_is_not_given_to_the_copy(suffix: str, store: Path, copy: Path) -> None:
    """What is left of a database that was removed without its log would be applied to the copy."""
    left = copy.with_name(copy.name + suffix)
    left.write_bytes(b"of another")

    assert f"the log of another database is beside it: {left}" in refused(store, copy)
    assert names(copy.parent) == [left.name]


def test_a_source_that_is_no_store_is_refused(copy: Path, tmp_path: Path) -> None:
    """With the words that reading one has, and before anything is made."""
    notes, empty, other = tmp_path / "notes", tmp_path / "empty", tmp_path / "other.db"
    notes.write_text("nothing but notes")
    empty.touch()
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()

    assert "does not exist" in refused(tmp_path / "missing.db", copy)
    assert "no SQLite database" in refused(notes, copy)
    assert "an empty file" in refused(empty, copy)
    assert "another program's SQLite database" in refused(other, copy)
    assert "is a directory" in refused(tmp_path, copy)
    assert names(copy.parent) == []


# ---------------------------------------------------------------- cut off


def test_a_file_that_comes_meanwhile_is_not_written_over(store: Path, copy: Path, monkeypatch) -> None:
    """The name is taken only at the end, and then it must be free."""
    synced = module._sync

    def sync(part: Path, mode: int) -> int:
        copy.write_text("somebody else's")
        return synced(part, mode)

    monkeypatch.setattr(module, "_sync", sync)

    assert "exists" in refused(store, copy)
    assert copy.read_text() == "somebody else's"
    assert names(copy.parent) == [copy.name]


def test_a_full_disk_leaves_nothing(store: Path, copy: Path, monkeypatch) -> None:
    """Not even what was written until then."""
    connect = sqlite3.connect

    def connected(*args: object, uri: bool = False, **options: object) -> sqlite3.Connection:
        connection = connect(*args, uri=uri, **options)
        if not uri:
            connection.execute("PRAGMA max_page_count = 3")
        return connection

    monkeypatch.setattr(module.sqlite3, "connect", connected)

    assert "the disk is full" in refused(store, copy)
    assert names(copy.parent) == []


@pytest.mark.parametrize("call", ["fsync", "link", "fchmod"])
def test_a_disk_that_fails_leaves_nothing_and_says_so(call: str, store: Path, copy: Path, monkeypatch) -> None:
    """Whichever call it is that finds the disk full, or the file system unable."""

    def failing(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, call, failing)

    assert refused(store, copy) == f"{copy}: No space left on device"
    assert names(copy.parent) == []


def test_a_file_that_may_not_grow_leaves_nothing(store: Path, copy: Path) -> None:
    """In a process whose files are limited, which is a full disk as the kernel really tells it."""
    program = (
        "import resource, sys; from turnkeeper.actors.store.backup import backup\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from turnkeeper.kernel.errors import StorageFailed\n"
        "try:\n    backup(*sys.argv[1:])\nexcept StorageFailed as error:\n    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, store, copy], capture_output=True, text=True, check=True)

    assert ended.stdout.startswith(f"{copy}: ")
    assert names(copy.parent) == []


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_leaves_no_part(step: str, store: Path, copy: Path, monkeypatch) -> None:
    """Before the copy has its name, nothing; after it, the whole."""
    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        backup(store, copy)

    if step == "_sync_folder":
        check_whole(copy)
    else:
        assert names(copy.parent) == []


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("call", "whole"), [("_copy", 0), ("_sync", 0), ("os.link", 0), ("_sync_folder", 1)])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_leaves_a_whole_copy_or_none(call: str, whole: int, after: bool, store: Path, copy: Path) -> None:
    """Killed before or after each of its steps; a part may stay, under another name, and a later backup goes on."""
    program = (
        "import os, signal, sys; from turnkeeper.actors.store import backup as module\n"
        "step, holder = sys.argv[3].split('.')[-1], module.os if '.' in sys.argv[3] else module\n"
        "done = getattr(holder, step)\n"
        "def kill(*args):\n"
        "    if sys.argv[4] == 'True': done(*args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(holder, step, kill)\n"
        "module.backup(*sys.argv[1:3])\n"
    )
    line = [sys.executable, "-c", program, store, copy, call, str(after)]
    assert subprocess.run(line, check=False).returncode == -signal.SIGKILL

    parts = list(copy.parent.glob("*.part"))
    if not (whole or (call, after) == ("os.link", True)):
        assert not copy.exists()
        backup(store, copy)
    for part in parts:
        part.unlink()
    check_whole(copy)


def test_the_store_is_not_written(store: Path, copy: Path) -> None:
    """Not one byte of it, nor its times."""
    before = store.read_bytes(), store.stat().st_mtime_ns
    backup(store, copy)

    assert (store.read_bytes(), store.stat().st_mtime_ns) == before
