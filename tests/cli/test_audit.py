"""The audit: silent about a sound store, and a line, naming place and rule, for each damage planted in one."""

import asyncio
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from click.testing import CliRunner

from turnkeeper import Effect, Runtime, Turn, agent, tool
from turnkeeper.actors.store.audit import audit
from turnkeeper.cli.app import group
from turnkeeper.kernel.edge import StepIntent, encode_detail
from turnkeeper.kernel.settings import Settings

SETTINGS = Settings(retries_max=0, shutdown_s=0.01)


class Store(NamedTuple):
    """A store with a turn of every kind, and the turns' ids by their keys.

    alice: `one` (with a duplicate), `two`, `three`, all completed. bob: `failed`. carol: `doubt`, suspended.
    dave: `begun`, taken back as the runtime closed, and behind it `waiting`, both queued.
    """

    path: Path
    turns: dict[str, int]


@tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
async def refund(order: str) -> str:
    if order == "slow":
        await asyncio.Event().wait()
    return f"refunded {order}, with many thanks for your patience"


@agent("desk", tools=[refund])
async def desk(turn: Turn) -> str:
    if turn.input == "fail":
        raise LookupError(turn.input)
    if turn.input == "begin":
        await asyncio.Event().wait()
    found = await turn.step("find", str.upper, turn.input)
    await turn.step("read", str.lower, turn.input)
    return await turn.call(refund, found if turn.input != "slow" else "slow")


async def fill(path: Path) -> None:
    async with Runtime(path, [desk], settings=SETTINGS) as runtime:
        for session, key, order in (
            ("alice", "one", "w1"),
            ("alice", "two", "w2"),
            ("alice", "three", "w3"),
            ("bob", "failed", "fail"),
        ):
            await runtime.ask(session, "desk", order, key=key)
        await runtime.ask("alice", "desk", "w1", key="one")
        await runtime.tell("carol", "desk", "slow", key="doubt")
        await runtime.tell("dave", "desk", "begin", key="begun")
        await runtime.tell("dave", "desk", "w4", key="waiting")
        with anyio.fail_after(10):
            while runtime.statistics().suspended == 0:
                await anyio.lowlevel.checkpoint()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "agents.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture
def store(filled: Path, path: Path) -> Store:
    shutil.copytree(filled.parent, path.parent, dirs_exist_ok=True)
    connection = sqlite3.connect(path)
    turns = dict(connection.execute("SELECT key, turn_id FROM receipts"))
    connection.close()
    return Store(path, turns)


def plant(store: Store, *statements: str) -> None:
    """Change a store behind its back; its triggers are there again afterwards."""
    connection = sqlite3.connect(store.path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.create_function("reworded", 1, lambda content: content.replace(b"thanks", b"thinks"))
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        changed = connection.execute(statement.format_map(store.turns)).rowcount
        assert changed != 0, f"planted nothing: {statement}"
    for _, sql in triggers:
        connection.execute(sql)
    connection.close()


class Found(NamedTuple):
    where: str
    what: str
    rule: str


LINE = re.compile(r"violation: (?P<where>[^:]+): (?P<what>.*) \((?P<rule>[^()]+)\)", re.DOTALL)


def findings(path: Path) -> list[Found]:
    """Return what the command says of a damaged store; that is exit code 1, and one line each."""
    ended = CliRunner().invoke(group, ["audit", str(path)])
    assert (ended.exit_code, type(ended.exception)) == (1, SystemExit), (ended.output, ended.exception)
    *lines, verdict = ended.output.splitlines()
    found = [Found(**match.groupdict()) for match in map(LINE.fullmatch, lines) if match is not None]

    assert len(found) == len(lines), lines
    assert verdict.endswith(f": {len(found)} violations")
    return found


# ---------------------------------------------------------------- sound stores


def test_a_sound_store_is_sound(store: Store) -> None:
    """Completed, failed, suspended and queued turns, a duplicate: every invariant holds, and exit code 0."""
    ended = CliRunner().invoke(group, ["audit", str(store.path)])

    assert ended.exit_code == 0
    counts = "4 actors, 7 turns (3 live), "
    assert ended.output.startswith(f"{store.path}: {counts}")
    assert ended.output.endswith(" edges: every invariant holds\n")


def test_machines_read_the_same(store: Store) -> None:
    """One JSON object: the counts, and each violation with its rule."""
    sound = json.loads(CliRunner().invoke(group, ["audit", str(store.path), "--json"]).output)
    plant(store, "DELETE FROM deliverables WHERE turn_id = {two}")
    ended = CliRunner().invoke(group, ["audit", str(store.path), "--json"])
    damaged = json.loads(ended.output)

    assert sound["violations"] == []
    assert (sound["actors"], sound["turns"], sound["live"]) == (4, 7, 3)
    assert ended.exit_code == 1
    assert {"rule", "where", "what"} == damaged["violations"][0].keys()


def test_a_store_is_sound_while_its_owner_runs(
    command: Any, sample: Any, path: Path, wait_for_deliverables: Any
) -> None:
    """Each audit sees one moment, however much is written meanwhile; and so right after the owner is killed."""
    child = command.start("replay", sample.file, "--db", path, "--parallel", 6, "--think-ms", 10)
    seen = []
    for number in range(5, 30, 5):
        wait_for_deliverables(path, number, child)
        seen.append(audit(path))
    alive = child.poll() is None
    child.kill()
    child.wait()
    after = audit(path)

    assert alive
    assert [found.violations for found in [*seen, after]] == [[]] * 6
    assert [found.turns for found in seen] == sorted(found.turns for found in seen)
    assert any(found.live for found in seen)


def test_the_audit_changes_nothing(store: Store) -> None:
    """Not one byte of the file, damaged or not."""
    plant(store, "DELETE FROM deliverables WHERE turn_id = {two}")
    before = store.path.read_bytes()
    findings(store.path)

    assert store.path.read_bytes() == before


# ---------------------------------------------------------------- damage: one case a rule


INTENT = encode_detail(StepIntent(2, "refund", "#0", "effectful", msgspec.Raw(b"\x80"), "k")).hex()
SHIFT = (  # make room for one more edge after ordinal 4 of turn `one`
    "UPDATE edges SET ordinal = -ordinal - 1 WHERE turn_id = {one} AND ordinal > 4",
    "UPDATE edges SET ordinal = -ordinal WHERE turn_id = {one} AND ordinal < 0",
)
AFTER = "(SELECT max(edge_id) + 1 FROM edges)"
COPY = "INSERT INTO edges (turn_id, ordinal, kind, epoch, at, detail) SELECT turn_id, {to}, kind, epoch, at, detail"

DAMAGE: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    # statements, where, rule, what
    "a changed state": (
        ("UPDATE turns SET state = 'failed' WHERE turn_id = {one}",),
        "one",
        "fold of edges = row",
        "state is 'failed', its edges say <TurnState.COMPLETED: 'completed'>",
    ),
    "a changed attempt": (
        ("UPDATE turns SET attempt = 9 WHERE turn_id = {failed}",),
        "failed",
        "fold of edges = row",
        "attempt is 9, its edges say 1",
    ),
    "a changed version": (
        ("UPDATE turns SET version = version + 1 WHERE turn_id = {begun}",),
        "begun",
        "fold of edges = row",
        "version is 4, its edges say 3",
    ),
    "a changed epoch of a turn": (
        ("UPDATE turns SET epoch = 7 WHERE turn_id = {doubt}",),
        "doubt",
        "fold of edges = row",
        "epoch is 7, its edges say 1",
    ),
    "a changed deadline": (
        ("UPDATE turns SET due_at = due_at + 3600 WHERE turn_id = {doubt}",),
        "doubt",
        "fold of edges = row",
        "due_at is ",
    ),
    "a turn said to run": (
        ("UPDATE turns SET state = 'running', boot_id = 1 WHERE turn_id = {waiting}",),
        "waiting",
        "fold of edges = row",
        "boot_id is 1, its edges say None",
    ),
    "a missing deliverable": (
        ("DELETE FROM deliverables WHERE turn_id = {two}",),
        "two",
        "terminal = one deliverable",
        "is completed and has no deliverable",
    ),
    "an extra deliverable": (
        ("INSERT INTO deliverables VALUES ({waiting}, 'completed', x'a178', 1.0)",),
        "waiting",
        "terminal = one deliverable",
        "is queued and has a deliverable",
    ),
    "a deliverable of another outcome": (
        ("UPDATE deliverables SET outcome = 'cancelled' WHERE turn_id = {failed}",),
        "failed",
        "terminal = one deliverable",
        "is failed, delivered as cancelled",
    ),
    "an undecodable deliverable": (
        ("UPDATE deliverables SET body = x'c1' WHERE turn_id = {one}",),
        "one",
        "readable deliverable",
        "its deliverable cannot be decoded",
    ),
    "a failure without its reason": (
        ("UPDATE deliverables SET body = x'a178' WHERE turn_id = {failed}",),
        "failed",
        "readable deliverable",
        "its deliverable cannot be decoded",
    ),
    "an edge deleted in the middle": (
        ("DELETE FROM edges WHERE turn_id = {one} AND ordinal = 3",),
        "one",
        "edges without a gap",
        "has ordinals 0, 1, 2, 4",
    ),
    "the last edge deleted": (
        ("DELETE FROM edges WHERE turn_id = {three} AND kind = 'turn_completed'",),
        "three",
        "fold of edges = row",
        "state is 'completed', its edges say <TurnState.RUNNING: 'running'>",
    ),
    "the first edge deleted": (
        ("DELETE FROM edges WHERE turn_id = {two} AND ordinal = 0",),
        "two",
        "legal transitions",
        "lease_acquired is not legal in state None",
    ),
    "all edges deleted": (
        ("DELETE FROM edges WHERE turn_id = {two}",),
        "two",
        "legal transitions",
        "nothing is not legal in state None",
    ),
    "the last edge twice": (
        (COPY.replace("{to}", "ordinal + 1") + " FROM edges WHERE turn_id = {two} AND kind = 'turn_completed'",),
        "two",
        "legal transitions",
        "turn_completed is not legal in state completed",
    ),
    "a step's outcome twice": (
        (*SHIFT, COPY.replace("{to}", "5") + " FROM edges WHERE turn_id = {one} AND ordinal = 3"),
        "one",
        "",
        "",
    ),
    "edges in another order": (
        (
            "UPDATE edges SET ordinal = -1 WHERE turn_id = {two} AND ordinal = 1",
            "UPDATE edges SET ordinal = 1 WHERE turn_id = {two} AND ordinal = 0",
            "UPDATE edges SET ordinal = 0 WHERE turn_id = {two} AND ordinal = -1",
        ),
        "two",
        "legal transitions",
        "lease_acquired is not legal in state None",
    ),
    "a changed epoch of an edge": (
        ("UPDATE edges SET epoch = 2 WHERE turn_id = {one} AND ordinal = 3",),
        "one",
        "epochs",
        "edge 3 has epoch 2, those before it lead to 1",
    ),
    "an unknown kind": (
        ("UPDATE edges SET kind = 'teleported' WHERE turn_id = {one} AND ordinal = 3",),
        "one",
        "readable edges",
        "an edge cannot be decoded: 'teleported' is not a valid EdgeKind",
    ),
    "an undecodable detail": (
        ("UPDATE edges SET detail = x'c1' WHERE turn_id = {one} AND ordinal = 3",),
        "one",
        "readable edges",
        "an edge cannot be decoded",
    ),
    "an undecodable first detail": (
        ("UPDATE edges SET detail = x'' WHERE turn_id = {one} AND ordinal = 0",),
        "one",
        "readable edges",
        "an edge cannot be decoded",
    ),
    "a detail nested too deep": (
        (f"UPDATE edges SET detail = x'92a16b{'91' * 100_000}c0' WHERE turn_id = {{one}} AND ordinal = 0",),
        "one",
        "readable edges",
        "an edge cannot be decoded",
    ),
    "a detail that is not UTF-8": (
        ("UPDATE edges SET detail = x'92a1ffc0' WHERE turn_id = {one} AND ordinal = 0",),
        "one",
        "readable edges",
        "an edge cannot be decoded",
    ),
    "a changed count of duplicates": (
        ("UPDATE receipts SET duplicate_count = 5 WHERE receipt_id = {one}",),
        "one",
        "duplicates counted",
        "receipts count 5, edges 1",
    ),
    "an effectful step intended twice": (
        (*SHIFT, f"INSERT INTO edges SELECT {AFTER}, {{one}}, 5, 'step_intended', 1, 1.0, x'{INTENT}', x''"),
        "one",
        "effects at most once",
        "step refund[#0] was intended again without a doubt",
    ),
    "a receipt under another key": (("UPDATE receipts SET key = 'other' WHERE receipt_id = {one}",), "one", "", ""),
    "a receipt for another payload": (("UPDATE receipts SET digest = x'00' WHERE receipt_id = {one}",), "one", "", ""),
}


@pytest.mark.parametrize(("statements", "where", "rule", "what"), DAMAGE.values(), ids=DAMAGE)
def test_damage_to_a_turn_is_named(store: Store, statements: tuple[str, ...], where: str, rule: str, what: str) -> None:
    """The line names the turn and the rule; no other turn is accused."""
    plant(store, *statements)
    found = findings(store.path)
    turn = f"turn {store.turns[where]}"
    mine = [one for one in found if one.where == turn]

    assert any(rule in one.rule and what in one.what for one in mine), found
    assert [one for one in found if one.rule != "sound file"] == mine


def test_edges_with_one_ordinal_are_named(store: Store) -> None:
    """The index that forbids it had to go first: that is named as well."""
    plant(
        store,
        "DROP INDEX edges_turn",
        COPY.replace("{to}", "ordinal") + " FROM edges WHERE turn_id = {one} AND ordinal = 2",
    )
    found = findings(store.path)

    assert Found("edges_turn", "is not as this version makes it", "schema") in found
    assert any(one.where == f"turn {store.turns['one']}" and "0, 1, 2, 2, 3" in one.what for one in found)


ORPHANS: dict[str, tuple[str, str, str]] = {
    "a turn without its row: edges": ("DELETE FROM turns WHERE turn_id = {one}", "turn {one}", "has edges and no row"),
    "a turn without its row: deliverable": (
        "DELETE FROM turns WHERE turn_id = {one}",
        "turn {one}",
        "has a deliverable and no row",
    ),
    "a turn without its row: receipt": (
        "DELETE FROM turns WHERE turn_id = {one}",
        "receipt {one}",
        "leads to turn {one}, which is not there",
    ),
    "a turn without a receipt": ("DELETE FROM receipts WHERE turn_id = {waiting}", "turn {waiting}", "has no receipt"),
    "a turn without its actor": (
        "DELETE FROM actors WHERE session_id = 'bob'",
        "turn {failed}",
        "belongs to actor 2, which is not there",
    ),
    "a receipt of another actor": (
        "UPDATE receipts SET actor_id = 2 WHERE receipt_id = {two}",
        "receipt {two}",
        "and its turn {two} belong to different actors",
    ),
    "a receipt that leads nowhere": (
        "UPDATE receipts SET turn_id = 999 WHERE receipt_id = {two}",
        "receipt {two}",
        "leads to turn 999, which is not there",
    ),
    "an edge of no turn": (
        f"INSERT INTO edges SELECT {AFTER}, 999, 0, 'inbound_received', 0, 1.0, x'', x''",
        "turn 999",
        "has edges and no row",
    ),
    "a deliverable of no turn": (
        "INSERT INTO deliverables VALUES (999, 'completed', x'c0', 1.0)",
        "turn 999",
        "has a deliverable and no row",
    ),
}


@pytest.mark.parametrize(("statement", "where", "what"), ORPHANS.values(), ids=ORPHANS)
def test_a_row_that_nothing_leads_to_is_named(store: Store, statement: str, where: str, what: str) -> None:
    """Turn, receipt, edges, deliverable and actor hang together, or the line says where they do not."""
    plant(store, statement)

    assert Found(where.format_map(store.turns), what.format_map(store.turns), "no orphans") in findings(store.path)


def test_two_turns_of_an_actor_at_once_are_named(store: Store) -> None:
    """The first ends, in the store's own order of edges, after the second has begun."""
    plant(
        store,
        "UPDATE edges SET edge_id = edge_id + 10000 WHERE turn_id = {three}",
        "UPDATE edges SET edge_id = 5000 WHERE turn_id = {one} AND kind = 'turn_completed'",
    )
    one, two = store.turns["one"], store.turns["two"]

    assert findings(store.path) == [Found("alice/desk", f"turns {one} and {two} ran at once", "one running turn")]


def test_turns_out_of_order_are_named(store: Store) -> None:
    """The second ran, from its lease to its end, before the first had begun."""
    plant(store, "UPDATE edges SET edge_id = edge_id - 10000 WHERE turn_id = {two}")
    one, two = store.turns["one"], store.turns["two"]

    assert findings(store.path) == [Found("alice/desk", f"turn {two} started before turn {one}", "order of acceptance")]


def test_a_turn_that_overtook_a_waiting_one_is_named(store: Store) -> None:
    """A turn that never ran, and is live, comes before the later ones: they may not have started."""
    plant(store, "UPDATE turns SET turn_id = -1 WHERE turn_id = {waiting}")
    plant(store, "UPDATE receipts SET turn_id = -1, receipt_id = -1 WHERE turn_id = {waiting}")
    plant(store, "UPDATE edges SET turn_id = -1 WHERE turn_id = {waiting}")
    begun = store.turns["begun"]

    found = findings(store.path)
    assert Found("dave/desk", f"turn {begun} started before turn -1", "order of acceptance") in found
    assert {one.rule for one in found} == {"order of acceptance", "digests"}  # a digest is over its turn's id, too


def test_text_that_is_no_text_is_named(store: Store) -> None:
    """Bytes in a name stop the reading; that is a finding, not an error of the audit's."""
    plant(store, "UPDATE edges SET kind = CAST(x'ff' AS TEXT) WHERE turn_id = {one} AND ordinal = 2")

    assert findings(store.path)[-1].rule in {"readable file", "readable edges"}
