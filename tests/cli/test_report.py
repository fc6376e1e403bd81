"""The report: what is in the store and in the effects file, counted; every fault is found and ends with exit code 1."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnkeeper import Runtime, Turn, agent
from turnkeeper.cli.conversations import AGENT_ID, Conversation, Delivery, Reply, read_conversations
from turnkeeper.cli.replay import Ran
from turnkeeper.cli.report import Report, report
from turnkeeper.kernel.settings import Settings

NOTHING = Ran(0, 0, 0.0)


@pytest.fixture
def counted(sample: Any, replayed: Path) -> Callable[[], Report]:
    """Count the replayed sample, as its files are now."""
    conversations = read_conversations([sample.file], Settings().payload_bytes_max)
    return lambda: report(conversations, replayed, effects_of(replayed), NOTHING)


def effects_of(db: Path) -> Path:
    return db.with_name(db.name + ".effects.jsonl")


def change(db: Path, sql: str) -> None:
    """Change a store behind its back."""
    connection = sqlite3.connect(db)
    connection.executescript(f"DROP TRIGGER edges_never_change; DROP TRIGGER edges_never_go; {sql}")
    connection.close()


def test_a_faultless_store_is_said_to_be_so(counted: Callable[[], Report], sample: Any) -> None:
    """A run that had nothing left to do has no speed, and the counts are all there."""
    found = counted()

    assert found.faultless
    assert (found.conversations, found.turns, found.steps, found.effects, found.escalations) == sample.expected
    assert (found.turns_per_s, found.commits_per_turn) == (0, 0)


def test_a_runs_speed_is_its_own(sample: Any, replayed: Path) -> None:
    """Turns per second and commits per turn come from the run alone, not from what the store held before."""
    conversations = read_conversations([sample.file], Settings().payload_bytes_max)
    found = report(conversations, replayed, effects_of(replayed), Ran(30, 45, 0.5))

    assert (found.turns_per_s, found.commits_per_turn) == (60.0, 1.5)


def test_an_effect_on_record_without_its_line_is_lost(counted: Callable[[], Report], replayed: Path) -> None:
    """The store says that it happened, the world does not."""
    lines = effects_of(replayed).read_bytes().splitlines(keepends=True)
    effects_of(replayed).write_bytes(b"".join(lines[2:]))
    found = counted()

    assert (found.lost, found.effects, found.faultless) == (2, len(lines) - 2, False)


def test_a_missing_effects_file_is_every_effect_lost(
    counted: Callable[[], Report], replayed: Path, sample: Any
) -> None:
    """No file, no effects."""
    effects_of(replayed).unlink()
    found = counted()

    assert (found.lost, found.effects) == (sample.expected.effects, 0)


def test_a_second_line_of_an_effect_is_a_repetition(counted: Callable[[], Report], replayed: Path) -> None:
    """Each line beyond the first of its key counts; lines of other stores' keys do not."""
    lines = effects_of(replayed).read_bytes().splitlines(keepends=True)
    foreign = b'{"key": "other/1/refund/0", "tool": "refund", "arguments": "{}"}\n'
    effects_of(replayed).write_bytes(b"".join([*lines, lines[0], lines[0], lines[1], foreign, foreign]))
    found = counted()

    assert (found.repeated, found.lost, found.faultless) == (3, 0, False)


def test_an_answer_that_is_not_the_recorded_one_is_lost(
    counted: Callable[[], Report], replayed: Path, sample: Any
) -> None:
    """A deliverable counts only where it says, byte for byte, what was recorded."""
    change(replayed, "UPDATE deliverables SET body = x'a178' WHERE turn_id = 5")
    found = counted()

    assert (found.turns, found.lost, found.faultless) == (sample.expected.turns - 1, 1, False)


def test_a_turn_that_failed_is_lost(counted: Callable[[], Report], replayed: Path) -> None:
    """A fallback deliverable is no answer, even where it says the same."""
    change(replayed, "UPDATE deliverables SET outcome = 'failed' WHERE turn_id = 5")

    assert counted().lost == 1


def test_a_conversation_that_is_not_there_is_lost(sample: Any, replayed: Path) -> None:
    """Each of its deliveries is one that nobody answered."""
    missing = Conversation("missing", [Delivery("missing:0", "hi", [Reply("a")]), Delivery("missing:2", "x", [])])
    conversations = [*read_conversations([sample.file], Settings().payload_bytes_max), missing]
    found = report(conversations, replayed, effects_of(replayed), NOTHING)

    assert (found.conversations, found.lost) == (sample.expected.conversations, 2)


def test_two_turns_of_one_delivery_are_a_repetition(counted: Callable[[], Report], replayed: Path) -> None:
    """One key answered twice: the message was worked on twice."""
    with sqlite3.connect(replayed) as connection:
        actor_id, key = connection.execute("SELECT actor_id, key FROM receipts WHERE receipt_id = 1").fetchone()
        other = connection.execute("SELECT max(receipt_id) FROM receipts WHERE actor_id = ?", (actor_id,)).fetchone()
        assert other[0] != 1
        connection.execute("UPDATE receipts SET retired = 1, key = ? WHERE receipt_id = ?", (key, *other))
    connection.close()

    assert counted().repeated == 1


def test_turns_of_one_conversation_at_once_overlap(counted: Callable[[], Report], replayed: Path) -> None:
    """A turn that ends after the next one of its conversation has begun: one pair of them."""
    first, _ = two_turns(replayed)
    change(
        replayed,
        f"""UPDATE edges SET edge_id = 1000000 WHERE turn_id = {first} AND kind = 'turn_completed';
        UPDATE edges SET edge_id = edge_id + 2000000 WHERE turn_id IN (
            SELECT turn_id FROM turns WHERE actor_id = (SELECT actor_id FROM turns WHERE turn_id = {first})
        ) AND turn_id NOT IN ({first}, {two_turns(replayed)[1]});""",
    )
    found = counted()

    assert (found.overlapping, found.out_of_order, found.faultless) == (1, 0, False)


def test_a_turn_that_began_before_an_earlier_one_is_out_of_order(counted: Callable[[], Report], replayed: Path) -> None:
    """What was accepted first did not start first."""
    first, second = two_turns(replayed)
    change(
        replayed,
        f"""UPDATE edges SET edge_id = -edge_id WHERE turn_id IN ({first}, {second});
        UPDATE edges SET edge_id = 1000000 + ordinal WHERE turn_id = {first};
        UPDATE edges SET edge_id = ordinal - 1000000 WHERE turn_id = {second};""",
    )
    found = counted()

    assert (found.overlapping, found.out_of_order > 0, found.faultless) == (0, True, False)


def two_turns(db: Path) -> tuple[int, int]:
    """Return the first two turns of the first conversation."""
    connection = sqlite3.connect(db)
    found = connection.execute("SELECT turn_id FROM turns WHERE actor_id = 1 ORDER BY turn_id LIMIT 2").fetchall()
    connection.close()
    return found[0][0], found[1][0]


async def test_only_what_a_death_left_counts_as_recovered(path: Path) -> None:
    """A turn that raised and was tried again was not taken back from anybody."""

    @agent(AGENT_ID)
    async def failing_once(turn: Turn) -> str:
        if turn.attempt == 1:
            raise ConnectionError
        return "hello"

    delivery = Delivery("c:0", "hi", [Reply("hello")])
    async with Runtime(path, [failing_once], settings=Settings(retry_base_s=0.001)) as runtime:
        await runtime.ask("c", AGENT_ID, "hi", key=delivery.key)
    found = report([Conversation("c", [delivery])], path, effects_of(path), NOTHING)

    assert (found.turns, found.lost) == (1, 0)
    assert found.recovered == 0


def test_a_fault_is_exit_code_1(command: Any, sample: Any, replayed: Path) -> None:
    """Machines are told by the code, people by the table."""
    lines = effects_of(replayed).read_bytes().splitlines(keepends=True)
    effects_of(replayed).write_bytes(b"".join([*lines[1:], lines[1]]))
    ended = command("replay", sample.file, "--db", replayed, "--json")
    shown = command("replay", sample.file, "--db", replayed)

    assert (ended.returncode, shown.returncode) == (1, 1)
    assert (json.loads(ended.stdout)["lost"], json.loads(ended.stdout)["repeated"]) == (1, 1)
    assert ended.stderr == shown.stderr == ""
