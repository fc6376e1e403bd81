"""The demo: a process killed again and again, and a count that a stranger understands."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from turnkeeper.actors.store.audit import audit
from turnkeeper.cli.demo import Demo
from turnkeeper.cli.effects import read_effects
from turnkeeper.cli.report import Report

PROMISES = (
    "times the process was killed (SIGKILL)",
    "turns taken back from a killed process",
    "effects that a kill left in doubt, looked up",
    "messages answered, as recorded",
    "answers or effects lost",
    "effects that happened",
    "effects that happened twice",
    "turns of one conversation running at once",
    "turns out of order",
    "invariants broken in the file (audit)",
)
ZERO = PROMISES[4], *PROMISES[6:]


def test_the_demo_kills_and_loses_nothing(command: Any, sample: Any, tmp_path: Path) -> None:
    """Within 20 s, with no question asked and nothing left behind: at least three kills, and the sample's counts."""
    started_s = time.monotonic()
    ended = command.run(["env", f"TMPDIR={tmp_path}", *command.line("demo", "--json")])
    seconds = time.monotonic() - started_s
    shown = json.loads(ended.stdout)
    report = shown["report"]

    assert (ended.returncode, ended.stderr) == (0, "")
    assert seconds < 20
    assert shown["kills"] >= 3
    assert shown["violations"] == []
    assert shown["expected_turns"] == sample.expected.turns
    counts = ("conversations", "turns", "steps", "effects", "escalations")
    assert tuple(report[name] for name in counts) == sample.expected
    assert report["lost"] == report["repeated"] == report["overlapping"] == report["out_of_order"] == 0
    assert report["recovered"] > 0
    assert list(tmp_path.iterdir()) == []


def test_people_read_every_promise_and_can_keep_the_files(command: Any, sample: Any, tmp_path: Path) -> None:
    """Each kill has its line, each promise its number; what is kept can be audited and replayed again."""
    kept = tmp_path / "new" / "folder"
    ended = command("demo", "--keep", kept)
    lines = [line.strip() for line in ended.stdout.splitlines()]
    told = {
        name: line.removeprefix(name).strip() for line in lines for name in PROMISES if line.startswith(name + "  ")
    }

    assert (ended.returncode, ended.stderr) == (0, "")
    assert told.keys() == set(PROMISES)
    assert {told[name] for name in ZERO} == {"0"}
    assert told["messages answered, as recorded"] == f"{sample.expected.turns} of {sample.expected.turns}"
    assert told["effects that happened"] == str(sample.expected.effects)
    kills = [line for line in lines if "killed with SIGKILL in the middle" in line]
    assert str(len(kills)) == told["times the process was killed (SIGKILL)"]
    found = audit(kept / "demo.db")
    assert (found.turns, found.violations) == (sample.expected.turns, [])
    keys = Counter(effect.key for effect in read_effects(kept / "demo.effects.jsonl")[0])
    assert set(keys.values()) == {1}


@pytest.mark.parametrize("fault", ["lost", "repeated", "overlapping", "out_of_order"])
def test_each_fault_of_the_report_breaks_the_demo(fault: str) -> None:
    """No fault is outvoted by the others being zero."""
    shown = Demo(kills=5, expected_turns=60, seconds=1.0, violations=[], report=Report(turns=60, **{fault: 1}))

    assert not shown.faultless


def test_a_violation_breaks_the_demo() -> None:
    """What the audit finds counts, whatever the report says."""
    shown = Demo(kills=5, expected_turns=60, seconds=1.0, violations=["turn 1: ..."], report=Report(turns=60))

    assert not shown.faultless
    assert ("invariants broken in the file (audit)", "1") in shown.rows()


@pytest.mark.parametrize("where", ["a file", "a file/folder"])
def test_a_folder_that_cannot_be_made_is_refused(inside: Any, tmp_path: Path, where: str) -> None:
    """In one line, before anything runs."""
    (tmp_path / "a file").write_text("nothing but notes")
    ended = inside("demo", "--keep", where)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "a file" in ended.stderr


def test_a_folder_with_something_else_in_it_is_refused(inside: Any, tmp_path: Path) -> None:
    """A demo.db that is no store of ours stops the demo with the reason of the run that met it, in one line."""
    (tmp_path / "demo.db").write_text("nothing but notes")
    ended = inside("demo", "--keep", tmp_path, "--json")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {tmp_path / 'demo.db'}: not a turnkeeper store (no SQLite database)\n"
    assert (tmp_path / "demo.db").read_text() == "nothing but notes"
