"""simulate: in virtual time, the same every time, and what it says when something is wrong."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
RACY = """
import asyncio

async def life(world):
    count = 0

    async def add(after):
        nonlocal count
        for _ in range(after):
            await asyncio.sleep(0)
        before = count
        await asyncio.sleep(0)
        count = before + 1

    await asyncio.gather(add(0), add(2))
    if count != 2:
        from turnkeeper.testing import Violated
        raise Violated("every add counts", f"{count} of 2")
"""


def simulate(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; far from any recorded trace."""
    return subprocess.run(
        [sys.executable, "-m", "turnkeeper", "simulate", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def summary(ran: subprocess.CompletedProcess[str]) -> dict:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    shown: dict = json.loads(ran.stdout.splitlines()[-1])
    return shown["summary"]


@pytest.mark.parametrize("scenario", ["desk", "programs", "clients", "handlers", "kernel", "trees", "participants"])
def test_two_processes_come_to_the_same_hash(tmp_path: Path, scenario: str) -> None:
    """Whatever the process's hash seed; another seed has another hash, where there are rows."""
    arguments = (scenario, "--hours", "0.002", "--crash-rate", "0.005", "--json")
    one = summary(simulate(tmp_path, *arguments, PYTHONHASHSEED="1"))
    two = summary(simulate(tmp_path, *arguments, PYTHONHASHSEED="2"))
    other = summary(simulate(tmp_path, *arguments, "--seed", "1"))

    assert one["hash"] == two["hash"]
    assert {**one, "real_s": 0, "turns_per_real_s": 0, "seeds_per_real_s": 0} == {
        **two,
        "real_s": 0,
        "turns_per_real_s": 0,
        "seeds_per_real_s": 0,
    }
    assert other["hash"] != one["hash"]


def test_a_desk_with_every_fault_keeps_its_promises(tmp_path: Path) -> None:
    """Many seeds, kills and hanging tools among them; everything ends, and the counts add up."""
    rates = ("--crash-rate", "0.01", "--hang-rate", "0.1", "--slow-rate", "0.2", "--duplicate-rate", "0.3")
    found = summary(simulate(tmp_path, "desk", "--seeds", "0..30", *rates, "--fault-rate", "0.02", "--json"))

    assert found["seeds"] == 31
    assert found["violations"] == 0
    assert found["completed"] == found["turns"] > 300
    assert min(found[name] for name in ("kills", "recovered", "retried", "doubts", "duplicates")) > 0
    assert found["queue_delay_p50_s"] <= found["queue_delay_p90_s"] <= found["queue_delay_p99_s"]


def test_a_violation_is_shown_with_the_line_that_repeats_it(tmp_path: Path) -> None:
    """The first violating seed ends the run, with exit code 1, few upsets, and a command that shows it again."""
    (tmp_path / "racy.py").write_text(RACY)
    ran = simulate(tmp_path, "racy.py", "--seeds", "0..200")
    line = next(line for line in ran.stdout.splitlines() if line.startswith("repeat it with: turnkeeper simulate "))
    again = simulate(tmp_path, *shlex.split(line.removeprefix("repeat it with: turnkeeper simulate ")))

    assert ran.returncode == again.returncode == 1
    assert "every add counts: 1 of 2" in ran.stdout
    assert "upsets of the order of arrival" in ran.stdout
    assert "every add counts: 1 of 2" in again.stdout
    assert "Traceback" not in ran.stdout + ran.stderr


def test_of_a_group_of_errors_the_first_is_shown(tmp_path: Path) -> None:
    """The group itself would say only how many there are."""
    lines = [
        "import asyncio",
        "async def fail():",
        "    raise KeyError('lost')",
        "async def life(world):",
        "    async with asyncio.TaskGroup() as group:",
        "        group.create_task(fail())",
    ]
    (tmp_path / "grouped.py").write_text("\n".join(lines))
    ran = simulate(tmp_path, "grouped.py", "--seeds", "0..1")

    assert ran.returncode == 1
    assert "the scenario raises nothing: grouped.py:3: KeyError: 'lost'" in ran.stdout


def test_what_a_scenario_raises_is_a_finding_with_its_line(tmp_path: Path) -> None:
    """A failed assertion, a slip of the pen: exit code 1, the line of the scenario, and the command that repeats it."""
    (tmp_path / "with {braces}.py").write_text("import asyncio\n\nasync def life(world):\n    assert world.seed < 3\n")
    ran = simulate(tmp_path, "with {braces}.py", "--seeds", "0..9", "--hours", "0.123456789")

    assert ran.returncode == 1
    assert "the scenario raises nothing: with {braces}.py:4: AssertionError" in ran.stdout
    assert "turnkeeper simulate 'with {braces}.py' --seed 3 --hours 0.123456789 " in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr


def test_fresh_seeds_are_run_for_as_long_as_said(tmp_path: Path) -> None:
    """Two runs a moment apart do not begin at the same seed."""
    one = summary(simulate(tmp_path, "kernel", "--for", "0.3", "--json"))
    two = summary(simulate(tmp_path, "programs", "--for", "0.3", "--json"))

    assert one["seeds"] > 20
    assert two["real_s"] < 10


def test_recorded_arrivals_are_used(tmp_path: Path) -> None:
    """Three messages in the trace's first second, and none later."""
    trace = "TIMESTAMP,ContextTokens\n" + "".join(f"2023-11-16 18:15:46.{part}0,1\n" for part in (68, 69, 70))
    (tmp_path / "arrivals.csv").write_text(trace)
    found = summary(simulate(tmp_path, "desk", "--hours", "0.005", "--arrivals", "arrivals.csv", "--json"))

    assert found["completed"] == found["turns"]
    assert 3 <= found["turns"] <= 3 * 18 * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("nowhere.py",),
            (
                "nowhere.py: is no file, and no built-in scenario"
                " (desk, programs, clients, handlers, doubts, kernel, trees, participants, arrivals, waiting)"
            ),
        ),
        (("broken.py",), "broken.py:1: is not Python"),
        (("lifeless.py",), "lifeless.py: has no `async def life(world)`"),
        (("importing.py",), "importing.py:1: cannot be loaded: ModuleNotFoundError"),
        (("text.txt",), "text.txt: is no Python file"),
        (("--seeds", "9..3"), "is empty: 9 is above 3"),
        (("--seeds", "many"), "is no range of seeds; write A..B"),
        (("--crash-rate", "1.5"), "is not in the range"),
        (("--hours", "0"), "is not in the range"),
        (("--arrivals", "text.txt"), "text.txt: its first line has no column TIMESTAMP"),
        (("--arrivals", "bad.csv"), "bad.csv: line 2:"),
        (("--arrivals", "nowhere.csv"), "nowhere.csv: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_clear_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Never a traceback."""
    (tmp_path / "broken.py").write_text("async def life(world)\n    pass\n")
    (tmp_path / "lifeless.py").write_text("def life(world):\n    pass\n")
    (tmp_path / "importing.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "bad.csv").write_text("TIMESTAMP\nyesterday\n")
    ran = simulate(tmp_path, *arguments)

    assert ran.returncode == 2
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
