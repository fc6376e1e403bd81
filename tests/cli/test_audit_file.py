"""The audit: what it says of a changed schema, of damaged pages, and of files that are no store."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from turnkeeper import Runtime, Turn, agent
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.file import migrate
from turnkeeper.actors.store.reader import Reader
from turnkeeper.kernel.errors import SchemaTooNew, StorageFailed
from turnkeeper.kernel.history import Violation

SCHEMA: dict[str, tuple[tuple[str, ...], str]] = {
    "a trigger dropped": (("DROP TRIGGER edges_never_go",), "edges_never_go"),
    "a trigger that does nothing": (
        ("DROP TRIGGER edges_never_go", "CREATE TRIGGER edges_never_go BEFORE DELETE ON edges BEGIN SELECT 1; END"),
        "edges_never_go",
    ),
    "an index dropped": (("DROP INDEX turns_live",), "turns_live"),
    "an index that allows more": (
        ("DROP INDEX turns_live", "CREATE INDEX turns_live ON turns (actor_id)"),
        "turns_live",
    ),
    "a view dropped": (("DROP VIEW receipt_states",), "receipt_states"),
    "a table of somebody else's": (("CREATE TABLE notes (note TEXT)",), "notes"),
    "a trigger of somebody else's": (
        ("CREATE TRIGGER meddle AFTER INSERT ON turns BEGIN DELETE FROM receipts; END",),
        "meddle",
    ),
    "a check taken out": (
        (
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = replace(sql, 'deliverable_id = turn_id', '1') WHERE name = 'turns'",
        ),
        "turns",
    ),
}


@pytest.mark.parametrize(("statements", "name"), SCHEMA.values(), ids=SCHEMA)
def test_a_changed_schema_is_named(replayed: Path, statements: tuple[str, ...], name: str) -> None:
    """The guards in the database are part of the contract."""
    connection = sqlite3.connect(replayed, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()

    assert Violation("schema", name, "is not as this version makes it") in audit(replayed).violations


def objections(path: Path) -> list[str]:
    """Return what there is against a store: violations, or why it cannot be read at all."""
    try:
        return [found.what for found in audit(path).violations]
    except StorageFailed as refused:
        return [refused.reason]


def test_flipped_bytes_in_any_page_are_found(replayed: Path) -> None:
    """Sixteen bytes at the head of each page in turn: a finding or a refusal, never a clean bill, never a crash."""
    connection = sqlite3.connect(replayed, isolation_level=None)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    content = replayed.read_bytes()
    unseen: list[int] = []
    for page in range(1, len(content) // size):
        at = page * size
        flipped = bytes(byte ^ 0xFF for byte in content[at : at + 16])
        replayed.write_bytes(content[:at] + flipped + content[at + 16 :])
        if not objections(replayed):
            unseen.append(page + 1)

    assert len(content) // size > 10
    assert unseen == []


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_file_cut_short_is_found(replayed: Path, share: float) -> None:
    """A copy that was not finished is not a store."""
    connection = sqlite3.connect(replayed, isolation_level=None)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = replayed.read_bytes()
    replayed.write_bytes(content[: int(len(content) * share)])

    assert objections(replayed)


# ---------------------------------------------------------------- one moment


async def test_an_audit_sees_one_moment(path: Path) -> None:
    """What its owner commits meanwhile is not there for a reader, halves of it least of all."""

    @agent("echo")
    async def echo(turn: Turn) -> Any:
        return turn.input

    async with Runtime(path, [echo]) as runtime:
        await runtime.ask("s", "echo", 1)
        with Reader(path) as reader:
            (session,) = reader.sessions()
            await runtime.ask("s", "echo", 2)
            await runtime.ask("t", "echo", 3)
            seen = len(list(reader.sessions())), len(reader.turns(session.actor_id)), reader.turns_completed()
        with Reader(path) as reader:
            later = len(list(reader.sessions())), len(reader.turns(session.actor_id)), reader.turns_completed()

    assert seen == (1, 1, 1)
    assert later == (2, 2, 3)


# ---------------------------------------------------------------- what is no store


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    """Each with its reason; nothing is made where nothing was."""
    notes, empty, missing = tmp_path / "notes", tmp_path / "empty", tmp_path / "missing"
    notes.write_text("nothing but notes")
    empty.touch()
    reasons = {}
    for file in (notes, empty, missing, tmp_path):
        with pytest.raises(StorageFailed) as refused:
            audit(file)
        reasons[file] = refused.value.reason

    assert reasons == {
        notes: "not a turnkeeper store (no SQLite database)",
        empty: "not a turnkeeper store (an empty file)",
        missing: "does not exist",
        tmp_path: "is a directory; a store is one file",
    }
    assert sorted(tmp_path.iterdir()) == [empty, notes]


def test_a_newer_schema_is_refused(replayed: Path) -> None:
    """This version does not know what would be right in it."""
    connection = sqlite3.connect(replayed)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(SchemaTooNew):
        audit(replayed)


def test_a_store_whose_making_was_cut_off_is_not_blamed_on_rights(tmp_path: Path) -> None:
    """A kill during the first transactions leaves a journal that only an owner may roll back: say that."""
    making, db = tmp_path / "making.db", tmp_path / "agents.db"
    migrate(making, "store", 1.0)
    connection = sqlite3.connect(making, isolation_level=None)
    connection.executescript("PRAGMA cache_size = 1; BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO nodes VALUES (?, 1, 1.0, 1.0, NULL)", [(boot_id,) for boot_id in range(1_000)])
    for suffix in ("", "-journal"):
        shutil.copy(f"{making}{suffix}", f"{db}{suffix}")
    connection.close()

    assert all("must be writable" not in said for said in objections(db))


def test_the_command_refuses_in_one_line(command: Any, tmp_path: Path) -> None:
    """Exit code 2 says that nothing was audited."""
    ended = command("audit", tmp_path / "missing.db")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {tmp_path / 'missing.db'}: does not exist\n"
