"""Replay through the command: its counts, running again, interruption, and a reader of its output who leaves."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.conversations import AGENT_ID
from turnkeeper.cli.effects import read_effects
from turnkeeper.kernel.names import Address

COUNTS = ("conversations", "turns", "steps", "effects", "escalations")
FAULTS = ("lost", "repeated", "overlapping", "out_of_order")
Rows = Callable[[Path], dict[str, list[Any]]]


def report_of(ended: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Return the report of a run that went well."""
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return json.loads(ended.stdout.splitlines()[-1])


def counts(report: dict[str, Any]) -> tuple[int, ...]:
    return tuple(report[name] for name in COUNTS)


def check_faultless(report: dict[str, Any]) -> None:
    assert {name: report[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert report["answered"] == report["escalations"]


def effect_keys(db: Path) -> list[str]:
    """Return the keys of the effects that have happened beside a store."""
    return [line.key for line in read_effects(db.with_name(db.name + ".effects.jsonl"))[0]]


# ---------------------------------------------------------------- what a run comes to


def test_the_recorded_conversations_run_to_the_known_counts(command: Any, recorded: Any, path: Path) -> None:
    """The last line is one JSON object; every message is answered as recorded, every effect happens once."""
    report = report_of(command("replay", recorded.file, "--db", path, "--json"))

    assert counts(report) == recorded.expected
    check_faultless(report)
    assert {"turns_per_s", "commits_per_turn", "recovered", "in_doubt"} <= report.keys()
    assert report["recovered"] == report["in_doubt"] == 0
    assert report["turns_per_s"] > 0
    assert 0 < report["commits_per_turn"] < 1, "64 conversations at once share their commits"
    assert len(set(effect_keys(path))) == len(effect_keys(path)) == recorded.expected.effects
    assert audit(path).violations == []


def test_people_read_the_same_counts(command: Any, sample: Any, path: Path) -> None:
    """Without `--json` the same numbers stand in a table, each behind its name."""
    ended = command("replay", sample.file, "--db", path)

    assert ended.returncode == 0, ended.stderr
    told = dict(line.rsplit(maxsplit=1) for line in ended.stdout.splitlines() if line.strip() and line[-3:].strip())
    told = {name.strip(): number for name, number in told.items()}
    assert [told[name] for name in COUNTS] == [str(number) for number in sample.expected]
    assert [told[name.replace("_", " ")] for name in FAULTS] == ["0"] * 4


def test_each_answer_is_the_recorded_one(sample: Any, replayed: Path) -> None:
    """What is delivered is what the recorded assistant said last before the next message, in the same order."""
    with Reader(replayed) as reader:
        found = {
            session.address: [
                msgspec.msgpack.decode(reader.deliverable(turn.row.turn_id).body)
                for turn in reader.turns(session.actor_id)
            ]
            for session in reader.sessions()
        }
    lines = [json.loads(line) for line in sample.file.read_text(encoding="utf-8").splitlines()]

    assert found == {Address("", line["conversation_id"], AGENT_ID): answers(line["messages"]) for line in lines}


def answers(messages: list[dict[str, Any]]) -> list[str]:
    """Return what was said last after each user message, where anything was."""
    found: list[str] = []
    for before, message in pairwise([*messages, {"role": "user"}]):
        if message["role"] == "user" and before["role"] != "user":
            found.append(before["content"])
    return found


def test_one_at_a_time_comes_to_the_same(command: Any, sample: Any, path: Path) -> None:
    """How many run at once changes the speed and nothing else."""
    report = report_of(command("replay", sample.file, "--db", path, "--parallel", 1, "--json"))

    assert counts(report) == sample.expected
    check_faultless(report)


def test_conversations_with_nothing_to_deliver_come_to_nothing(command: Any, write: Any, path: Path) -> None:
    """A conversation of a user nobody answered is no work and no fault."""
    file = write({"conversation_id": "c", "messages": [{"role": "user", "content": "anybody?"}]})
    report = report_of(command("replay", file, "--db", path, "--json"))

    assert set(report.values()) == {0}
    assert not path.with_name(path.name + ".effects.jsonl").exists()


# ---------------------------------------------------------------- again, and more


def test_running_again_does_nothing(command: Any, sample: Any, replayed: Path, rows: Rows) -> None:
    """Everything is answered from its receipt: no new turn, no new effect, the same deliverables."""
    before, effects = rows(replayed), effect_keys(replayed)
    report = report_of(command("replay", sample.file, "--db", replayed, "--json"))
    after = rows(replayed)

    assert counts(report) == sample.expected
    check_faultless(report)
    assert report["turns_per_s"] == report["commits_per_turn"] == 0
    assert effect_keys(replayed) == effects
    for table in ("actors", "turns", "deliverables"):
        assert after[table] == before[table]
    assert len(after["edges"]) == len(before["edges"]) + sample.expected.turns
    assert audit(replayed).violations == []


def test_running_again_finishes_what_a_kill_left(
    command: Any, sample: Any, path: Path, wait_for_deliverables: Any, rows: Rows
) -> None:
    """What had been answered stays as it is, byte for byte; the rest is answered once."""
    child = command.start("replay", sample.file, "--db", path, "--parallel", 4, "--think-ms", 10)
    reached = wait_for_deliverables(path, sample.expected.turns // 2, child)
    child.kill()
    child.wait()
    before, effects = rows(path)["deliverables"], effect_keys(path)
    assert sample.expected.turns // 2 <= reached <= len(before) < sample.expected.turns
    report = report_of(command("replay", sample.file, "--db", path, "--json"))
    after = rows(path)["deliverables"]

    assert counts(report) == sample.expected
    check_faultless(report)
    assert report["recovered"] > 0
    assert set(before) < set(after)
    assert effect_keys(path)[: len(effects)] == effects
    assert set(Counter(effect_keys(path)).values()) == {1}
    assert audit(path).violations == []


def test_a_second_file_may_follow_in_the_same_store(command: Any, sample: Any, write: Any, path: Path) -> None:
    """Each run reports on the conversations of its own files; together they are all of them."""
    lines = sample.file.read_bytes().splitlines(keepends=True)
    first, second = write(*lines[:5], name="first.jsonl"), write(*lines[5:], name="second.jsonl")
    one = report_of(command("replay", first, "--db", path, "--json"))
    other = report_of(command("replay", second, "--db", path, "--json"))
    both = report_of(command("replay", first, second, "--db", path, "--json"))

    assert one["conversations"] == 5
    assert tuple(map(sum, zip(counts(one), counts(other), strict=True))) == counts(both) == sample.expected
    for report in (one, other, both):
        check_faultless(report)
    assert both["turns_per_s"] == 0


def test_a_conversation_that_has_grown_goes_on_where_it_was(command: Any, sample: Any, write: Any, path: Path) -> None:
    """Keys say the place in the conversation, so only what is new is delivered."""
    whole = json.loads(sample.file.read_text(encoding="utf-8").splitlines()[0])
    places = [place for place, message in enumerate(whole["messages"]) if message["role"] == "user"]
    begun = whole | {"messages": whole["messages"][: places[2]]}
    first = report_of(command("replay", write(begun), "--db", path, "--json"))
    second = report_of(command("replay", write(whole), "--db", path, "--json"))

    assert first["turns"] == 2
    assert second["turns"] > 2
    check_faultless(second)
    assert second["repeated"] == 0


# ---------------------------------------------------------------- interruption


def test_an_interruption_ends_with_130_and_the_next_run_finishes(
    command: Any, sample: Any, path: Path, wait_for_deliverables: Any
) -> None:
    """Control-C says in one line what to do; nothing is lost, nothing happens twice."""
    child = command.start("replay", sample.file, "--db", path, "--parallel", 2, "--think-ms", 10, "--json")
    wait_for_deliverables(path, 5, child)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    found = audit(path)
    report = report_of(command("replay", sample.file, "--db", path, "--json"))

    assert child.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert len(list(filter(None, err.splitlines()))) == 1, err
    assert "interrupted" in err
    assert found.violations == []
    assert found.turns < sample.expected.turns
    assert counts(report) == sample.expected
    check_faultless(report)


# ---------------------------------------------------------------- who reads the output


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_a_reader_who_leaves_is_no_error_of_ours(command: Any, sample: Any, replayed: Path, options: Any) -> None:
    """With the other end of the pipe closed there is nobody to tell: no word on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = command("replay", sample.file, "--db", replayed, *options, stdout=closed)

    assert ended.stderr == ""
    assert ended.returncode != 0


def test_the_first_line_can_be_taken_alone(command: Any, replayed: Path) -> None:
    """`| head -1` gets its line and no complaint comes, however long the output is."""
    ended = command.shell(f"show {replayed.name} bookshop-01-refund 1", "| head -1")

    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
