"""Migrations: every store that a released version left is brought forward, and nothing that it holds is lost."""

import importlib.util
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from looking import details, edges, kinds, rows, token, until

from turnkeeper import GiveUp, Happened, Runtime, Settings
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.file import APPLICATION_ID, migrate
from turnkeeper.actors.store.sql import migrations, schema
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.edge import chained
from turnkeeper.kernel.errors import SchemaTooNew, StorageFailed
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import verb_noted

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEMAS = {int(re.sub(r"\D", "", file.stem)): file for file in GOLDEN.glob("schema-*.db")}
NEWEST = len(migrations())
FAST = Settings(synchronous="OFF", retries_max=1, retry_base_s=0.01, shutdown_s=0.02)


# ---------------------------------------------------------------- the schema


def objects(connection: sqlite3.Connection) -> dict[tuple[str, str], Any]:
    """Return everything in a schema, its SQL without comments and with single spaces.

    Of a table the parts in any order, beside its columns in theirs: a column that was added stands last in the text.
    """
    found: dict[tuple[str, str], Any] = {}
    for kind, name, sql in connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall():
        plain = " ".join(re.sub(r"--[^\n]*", "", sql).split())
        if kind == "table":
            begin, _, rest = plain.partition("(")
            body, _, end = rest.rpartition(")")
            columns = connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
            found[kind, name] = begin, sorted(split(body)), end, columns
        else:
            found[kind, name] = plain
    return found


def split(listed: str) -> list[str]:
    """Return the parts of a list with commas, whatever stands in parentheses inside a part."""
    return [part.strip() for part in re.split(r",(?![^()]*(?:\([^()]*\)[^()]*)*\))", listed)]


def test_the_schema_is_what_the_migrations_amount_to(tmp_path: Path) -> None:
    """A store that was migrated step by step and one made from schema.sql are the same."""
    migrate(tmp_path / "migrated.db", "a1b2", 100.0)
    with (
        closing(sqlite3.connect(tmp_path / "migrated.db")) as migrated,
        closing(sqlite3.connect(tmp_path / "made.db")) as made,
    ):
        made.executescript(schema())

        assert objects(made)
        assert objects(migrated) == objects(made)


def test_a_migrated_store_says_whose_it_is_and_which_version(tmp_path: Path) -> None:
    """Its application id and its schema number are in SQLite's own fields, its name in its one row."""
    migrate(tmp_path / "x.db", "a1b2", 100.0)
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
        assert connection.execute("SELECT store_id, created_at FROM store").fetchall() == [("a1b2", 100.0)]


def test_migrating_once_more_changes_nothing(tmp_path: Path) -> None:
    """A store keeps the name it was made with."""
    migrate(tmp_path / "x.db", "a1b2", 100.0)
    before = (tmp_path / "x.db").read_bytes()
    migrate(tmp_path / "x.db", "c3d4", 200.0)

    assert (tmp_path / "x.db").read_bytes() == before


# ---------------------------------------------------------------- what released versions left


def test_there_is_a_store_of_every_schema_that_was_released() -> None:
    """The newest one may still be in the making; all before it are on users' disks."""

    assert set(range(1, NEWEST)) <= SCHEMAS.keys() <= set(range(1, NEWEST + 1))


@pytest.fixture(params=sorted(SCHEMAS), ids="schema {}".format)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a store as a killed process of that version left it."""
    return Path(shutil.copy(SCHEMAS[request.param], tmp_path / "agents.db"))


@pytest.fixture
def made() -> Iterator[ModuleType]:
    """The program that made them: its agents finish what they hold."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def then(golden: Path, clock: Any) -> Any:
    """A clock that stands a minute after the process was killed."""
    ((clock.now,),) = rows(golden, "SELECT max(at) + 60 FROM edges")
    return clock


def turns(path: Path) -> dict[str, int]:
    """Return the turns' ids by their sessions: of two in one session the tenant's, or the one queued behind."""
    found = rows(
        path,
        "SELECT receipt_id, session_id, tenant, key FROM receipts JOIN actors USING (actor_id) ORDER BY receipt_id",
    )
    return {key if key == "queued behind" else tenant or session: turn_id for turn_id, session, tenant, key in found}


async def test_a_store_is_brought_forward_and_proves_itself(golden: Path, made: ModuleType, then: Any) -> None:
    """By opening a runtime on it: every invariant holds, before it goes on and after."""
    async with Runtime(golden, [], settings=FAST, clock=then):
        assert rows(golden, "PRAGMA user_version") == [(NEWEST,)]
        assert audit(golden).violations == []
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        await until(lambda: runtime.statistics().suspended == 2)

    assert audit(golden).violations == []


async def test_what_was_delivered_stays_as_it_was_byte_for_byte(golden: Path, made: ModuleType, then: Any) -> None:
    """Turns that are over, their histories and their deliverables; their keys are answered with them."""
    ids = turns(golden)
    ended = [turn_id for (turn_id,) in rows(golden, "SELECT turn_id FROM deliverables")]
    columns, marks = "turn_id, state, epoch, version, attempt, due_at, outcome, body, at", ", ".join("?" * len(ended))
    delivered = f"SELECT {columns} FROM turns JOIN deliverables USING (turn_id) WHERE turn_id IN ({marks})"
    history = f"SELECT turn_id, ordinal, kind, epoch, at, detail FROM edges WHERE turn_id IN ({marks}) ORDER BY edge_id"
    before, told = rows(golden, delivered, *ended), rows(golden, history, *ended)
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        with anyio.fail_after(5):
            done = await runtime.ask("done", "desk", {"order": "W1", "note": "x" * 5_000}, key="one")
            failed = await runtime.ask("failed", "desk", {"order": "broken"}, key="two")

    assert (done.turn_id, done.value) == (ids["done"], "refunded 500 for W1")
    assert (failed.turn_id, failed.failure.type, failed.failure.message) == (
        ids["failed"],
        "ValueError",
        "no such order",
    )
    assert {ids[name] for name in ("done", "acme", "failed")} <= {turn_id for turn_id, *_ in before}
    assert rows(golden, delivered, *ended) == before
    assert rows(golden, history, *ended)[: len(told)] == told
    assert [kind for _, _, kind, *_ in rows(golden, history, *ended)[len(told) :]] == ["duplicate_dropped"] * 2
    assert audit(golden).violations == []


async def test_what_was_cut_off_by_the_kill_ends(golden: Path, made: ModuleType, then: Any) -> None:
    """The effect that was under way is a doubt with a token; once it is answered the turn goes on from its record."""
    ids = turns(golden)
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        await until(lambda: runtime.statistics().suspended == 2)
        await runtime.resolve(ids["killed"], Happened("said so"), token=await token(runtime, ids["killed"]))
        with anyio.fail_after(5):
            result = await runtime.ask("killed", "desk", {"order": "killed"}, key="four")

    assert (result.turn_id, result.value) == (ids["killed"], "said so")
    assert kinds(golden, ids["killed"]).count("step_intended") == 2
    assert audit(golden).violations == []


@pytest.mark.parametrize(
    ("finding", "ended"),
    [(Happened("refunded by hand"), "completed"), (GiveUp(), "failed")],
    ids=["happened", "gave up"],
)
async def test_a_doubt_that_an_older_version_asked_about_can_be_answered(
    golden: Path, made: ModuleType, then: Any, finding: Happened | GiveUp, ended: str
) -> None:
    """Before its deadline, with the token that `doubts` shows; then the turn behind it runs."""
    ids = turns(golden)
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        await until(lambda: runtime.statistics().suspended == 2)
        await runtime.resolve(ids["doubt"], finding, token=await token(runtime, ids["doubt"]))
        with anyio.fail_after(5):
            result = await runtime.ask("doubt", "desk", {"order": "doubtful"}, key="three")
            behind = await runtime.ask("doubt", "desk", {"order": "W3"}, key="queued behind")

    assert (result.turn_id, result.outcome) == (ids["doubt"], ended)
    assert (behind.turn_id, behind.value) == (ids["queued behind"], "refunded 500 for W3")
    assert audit(golden).violations == []


async def test_a_doubt_that_an_older_version_asked_about_is_listed_and_due_as_it_was(golden: Path, then: Any) -> None:
    """By what its suspension said, now in the rows of what turns stand on too; cancelled, it stands on nothing."""
    ids = turns(golden)
    ((due_at,),) = rows(golden, "SELECT due_at FROM turns WHERE state = 'suspended'")
    async with Runtime(golden, [], settings=FAST, clock=then) as runtime:
        (suspended,) = details(golden, "turn_suspended", ids["doubt"])
        (doubt,) = [one for one in await runtime.doubts() if one.turn_id == ids["doubt"]]
        stood = rows(golden, "SELECT turn_id, kind, due_at, child_id FROM waits WHERE turn_id = ?", ids["doubt"])
        due = await runtime._node.store.waiting.due_turns((0.0, 0), due_at, 9)
        assert audit(golden).violations == []
        await runtime.cancel(ids["doubt"], by="ann")

    assert (doubt.token, doubt.due_at) == (suspended.token, suspended.due_at)
    assert doubt.step == str(suspended.step)
    assert stood == [(ids["doubt"], "doubt", due_at, None)]
    assert ids["doubt"] in [one.turn_id for one in due]
    assert rows(golden, "SELECT turn_id FROM waits WHERE turn_id = ?", ids["doubt"]) == []
    assert audit(golden).violations == []


async def test_a_doubt_whose_time_is_over_fails_for_it_and_what_waits_behind_it_runs(
    golden: Path, made: ModuleType, then: Any
) -> None:
    """The deadline that an older version wrote counts."""
    ids = turns(golden)
    then.now += 86_400
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        with anyio.fail_after(5):
            await until(lambda: runtime.statistics().completed == 1)

    delivered = dict(rows(golden, "SELECT turn_id, outcome FROM deliverables"))

    assert delivered[ids["doubt"]] == "failed"
    assert delivered[ids["queued behind"]] == "completed"
    assert audit(golden).violations == []


async def test_new_turns_work_in_old_sessions_and_new_ones(golden: Path, made: ModuleType, then: Any) -> None:
    """An old actor has its number still, and a new one gets the next."""
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        with anyio.fail_after(5):
            for session in ("done", "failed", "new"):
                assert (await runtime.ask(session, "desk", {"order": "W9"})).value == "refunded 500 for W9"
    actors = rows(golden, "SELECT session_id, count(*) FROM actors WHERE tenant = '' GROUP BY 1 ORDER BY 1")

    assert dict(actors).items() >= dict.fromkeys(("done", "doubt", "failed", "killed", "new"), 1).items()
    assert {count for _, count in actors} == {1}
    assert audit(golden).violations == []


def test_a_golden_store_that_was_migrated_has_the_schema_of_a_new_one(golden: Path, tmp_path: Path) -> None:
    """From whichever version, over all that lie between."""
    migrate(golden, "unused", 0.0)
    with closing(sqlite3.connect(golden)) as migrated, closing(sqlite3.connect(tmp_path / "made.db")) as made:
        made.executescript(schema())

        assert objects(migrated) == objects(made)


def test_a_migration_that_fails_at_its_end_leaves_the_older_store(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that lie between are one transaction; the next try finds the store as it was."""
    with closing(sqlite3.connect(golden)) as connection:
        version, before = connection.execute("PRAGMA user_version").fetchone(), list(connection.iterdump())
    with monkeypatch.context() as patched:
        patched.setattr("turnkeeper.actors.store.file.migrations", lambda: (*migrations(), "INSERT INTO nowhere"))
        with pytest.raises(StorageFailed):
            migrate(golden, "unused", 0.0)
    with closing(sqlite3.connect(golden)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == version
        assert list(connection.iterdump()) == before
    migrate(golden, "unused", 0.0)

    assert audit(golden).violations == []


async def test_supervision_is_kept_in_a_store_that_was_migrated(golden: Path, then: Any) -> None:
    """Nothing is known of what an older version kept nothing of; what it kept stands, and so does what comes."""
    ((schema_before,),) = rows(golden, "PRAGMA user_version")
    store = SqliteStore(golden, synchronous="OFF", store_id="unused", created_at=0.0)
    marks = await store.open()
    before = [row.path for row in await store.desired()], [one.path for one in await store.child_events()]
    _, said = verb_noted("agents/desk", Desired.RUNNING, Verb.PAUSE, at=then.now, boot_id=marks.boot_id)
    refused = await store.apply([said])
    after = {row.path: row.desired for row in await store.desired()}
    events = [one.path for one in await store.child_events()]
    await store.close()

    resting = ["agents/resting"] if schema_before > 2 else []
    assert before == (resting, resting)
    assert refused == {}
    assert after == dict.fromkeys([*resting, "agents/desk"], Desired.PAUSED)
    assert events == [*resting, "agents/desk"]
    assert audit(golden).violations == []


async def test_agents_remember_in_a_store_that_was_migrated(golden: Path, made: ModuleType, then: Any) -> None:
    """What ended before there were states has left none; turns that end from now on do."""
    ((schema_before,),) = rows(golden, "PRAGMA user_version")
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        before = await runtime.state("done", "desk")
        with anyio.fail_after(5):
            await runtime.ask("done", "desk", {"order": "W9"})
        after = await runtime.state("done", "desk")

    left = {"W1": 1} if schema_before > 4 else {}
    assert before == (left or None)
    assert after == {**left, "W9": 1}
    assert audit(golden).violations == []


async def test_forks_retries_and_large_values_of_schema_2_are_as_they_were(made: ModuleType, tmp_path: Path) -> None:
    """A fork says whose it is, its key still answers, a retried step has its result; what was pruned is new."""
    golden = Path(shutil.copy(SCHEMAS[2], tmp_path / "agents.db"))
    ((forked, payload),) = rows(
        golden, "SELECT r.turn_id, b.body FROM receipts r JOIN blobs b USING (turn_id) WHERE key = 'six'"
    )
    async with Runtime(golden, [made.desk], settings=FAST, clock=At(golden)) as runtime:
        with anyio.fail_after(5):
            first = await runtime.ask("retried", "desk", {"order": "retried", "note": "x" * 20_000}, key="five")
            again = await runtime.fork(first.turn_id, from_step=2, key="six")
            anew = await runtime.ask("pruned", "desk", {"order": "W0", "note": "x" * 20_000}, key="zero")

    assert (first.value, kinds(golden, first.turn_id).count("step_failed")) == ("noted retried", 1)
    assert (again.turn_id, again.duplicate) == (forked, True)
    assert anew.turn_id > forked
    assert rows(golden, "SELECT body FROM blobs WHERE turn_id = ? AND ordinal = 0", forked) == [(payload,)]
    assert audit(golden).violations == []


class At:
    """A clock that stands a second after the last edge of a store."""

    def __init__(self, path: Path) -> None:
        ((self.now,),) = rows(path, "SELECT max(at) + 1 FROM edges")

    def time(self) -> float:
        return self.now


async def test_old_edges_stay_as_they_are_and_those_behind_them_chain(
    golden: Path, made: ModuleType, then: Any
) -> None:
    """A digest is of the version that wrote its edge; from the first on, none is missing."""
    async with Runtime(golden, [], settings=FAST, clock=then):
        digests = dict(rows(golden, "SELECT edge_id, digest FROM edges ORDER BY edge_id"))
    async with Runtime(golden, [made.desk], settings=FAST, clock=then) as runtime:
        await until(lambda: runtime.statistics().suspended == 2)
        await runtime.tell("done", "desk", {"order": "W1", "note": "x" * 5_000}, key="one")
        await runtime.ask("new", "desk", {"order": "W9"})
    told = "SELECT edge_id, turn_id, ordinal FROM edges WHERE edge_id > ? ORDER BY edge_id"
    new = [(turn_id, ordinal) for _, turn_id, ordinal in rows(golden, told, max(digests))]

    assert {turn_id for turn_id, _ in new} >= {turns(golden)[name] for name in ("done", "killed", "new")}
    assert dict(rows(golden, "SELECT edge_id, digest FROM edges")).items() >= (digests.items())
    for turn_id, ordinal in new:
        history = edges(golden, turn_id)
        edge, before = history[ordinal], history[ordinal - 1].digest if ordinal else b""
        assert edge.digest == chained(before, turn_id, edge.kind, edge.at, edge.detail)


def test_a_store_without_digests_is_left_without_them(tmp_path: Path) -> None:
    """What nobody digested when it was written cannot be vouched for later."""
    store = Path(shutil.copy(SCHEMAS[1], tmp_path / "agents.db"))
    migrate(store, "unused", 0.0)

    assert rows(store, "SELECT DISTINCT digest FROM edges") == [(b"",)]
    assert rows(store, "SELECT DISTINCT digest FROM turns") == [(None,)]
    assert audit(store).violations == []


async def test_a_store_of_a_newer_version_is_refused_and_not_touched(golden: Path) -> None:
    """Not a byte of it, and nothing beside it: the newer version goes on with it."""
    with closing(sqlite3.connect(golden)) as connection:
        connection.execute(f"PRAGMA user_version = {NEWEST + 1}")
        connection.execute("PRAGMA journal_mode = DELETE")
    before = beside(golden)

    with pytest.raises(SchemaTooNew) as refused:
        await Runtime(golden, [], settings=FAST).__aenter__()
    assert (refused.value.found, refused.value.known) == (NEWEST + 1, NEWEST)
    assert beside(golden) == before


def beside(path: Path) -> dict[str, bytes]:
    """Return every file of a store's folder."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}
