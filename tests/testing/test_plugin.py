"""The pytest plugin: seeds as parts of a test's name, worlds, and failures that say how to repeat them."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import asyncio
import pytest
from turnkeeper import Retry, agent
from turnkeeper.testing import Faults, Load, assert_no_violations

@agent("echo")
async def echo(turn):
    return turn.input
"""


def run(folder: Path, body: str, *options: str) -> tuple[int, str]:
    """Run a test file in a pytest of its own, without any configuration."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(HEAD + body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def test_a_marked_test_runs_once_under_each_seed(tmp_path: Path) -> None:
    """A number is that many seeds, a list is those; each has its world."""
    body = """
@pytest.mark.seeds(3)
async def test_three(runtime, world, seed):
    assert world.seed == seed
    async with runtime([echo]) as running:
        assert (await running.ask("s", "echo", seed, key="k")).value == seed

@pytest.mark.seeds([7, 11])
def test_two(seed):
    assert seed in {7, 11}
"""
    code, said = run(tmp_path, body, "-vv")

    assert code == 0, said
    assert "5 passed" in said
    assert "test_three[2]" in said
    assert "test_two[11]" in said


def test_without_the_mark_there_is_one_world_with_seed_0(tmp_path: Path) -> None:
    """Asking for a fixture of the plugin is enough; other tests, plain or async, are left alone."""
    body = """
async def test_one(runtime, seed, virtual_clock):
    assert seed == 0
    async with runtime([echo]) as running:
        before = virtual_clock.time()
        await virtual_clock.advance(86_400)
        assert virtual_clock.time() - before == 86_400
        assert_no_violations(running)

def test_plain():
    pass
"""
    code, said = run(tmp_path, body)

    assert code == 0, said
    assert "2 passed" in said


def test_a_race_is_shown_with_its_upsets_and_the_line_that_repeats_it(tmp_path: Path) -> None:
    """The repeat line runs the one seed, and it fails again."""
    body = """
@pytest.mark.seeds(40)
async def test_race(world):
    count = 0

    async def raise_it(after):
        nonlocal count
        for _ in range(after):
            await asyncio.sleep(0)
        before = count
        await asyncio.sleep(0)
        count = before + 1

    await asyncio.gather(raise_it(0), raise_it(2))
    assert count == 2
"""
    code, said = run(tmp_path, body)
    failed = next(line for line in said.splitlines() if line.startswith("FAILED")).split()[1]
    again, said_again = run(tmp_path, body, failed)

    assert code == 1
    assert "upsets of the order of arrival" in said
    assert f"repeat it with: pytest '{failed}'" in said
    assert again == 1
    assert "1 failed" in said_again


def test_a_killed_test_is_lived_again_in_the_same_world(tmp_path: Path) -> None:
    """Faults of the mark kill it; what happened stays; the answer is the first life's, or comes in a later one."""
    body = """
lives = {}

@pytest.mark.seeds(20, faults=Faults(crash_rate=0.05))
async def test_lives(runtime, world, seed):
    lives[seed] = world.life
    async with runtime([echo]) as running:
        for number in range(5):
            assert (await running.ask("s", "echo", number, key=f"k{number}")).value == number

def test_some_were_killed():
    assert len(lives) == 20
    assert max(lives.values()) > 1
"""
    code, said = run(tmp_path, body)

    assert code == 0, said
    assert "21 passed" in said


def test_every_ending_of_a_scripted_agent(tmp_path: Path) -> None:
    """ok, fail, hang, crash, slow: in the order of the turns, in virtual time."""
    body = """
async def test_script(runtime, scripted_agent, virtual_clock):
    script = scripted_agent("script", ["ok", "fail", "hang", "crash", "slow"], turn_s=100, retry=Retry(retries_max=1))
    async with runtime([script]) as running:
        ended = [await running.ask("s", "script", n, key=f"k{n}") for n in range(5)]
        assert [end.outcome for end in ended] == ["completed", "failed", "failed", "completed", "completed"]
        assert ended[1].failure.type == "ScriptedFailure"
        assert ended[2].failure.type == "DeadlineExceeded"
        assert virtual_clock.now_s > 60
"""
    code, said = run(tmp_path, body)

    assert code == 0, said


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("@pytest.mark.seeds(3)\ndef test_none():\n    pass\n", "uses none: ask for world, runtime, seed"),
        (
            "async def test_open(runtime):\n    await runtime([echo]).__aenter__()\n",
            "no task is left behind: after the life returned",
        ),
        (
            "async def test_twice(world):\n    world.happen('x')\n    world.happen('x')\n",
            "effects at most once: x happened twice",
        ),
        ("async def test_dead(world):\n    await asyncio.Event().wait()\n", "no deadlock: nothing is ready"),
    ],
    ids=["seeds for nobody", "left open", "an effect twice", "a deadlock"],
)
def test_what_is_wrong_is_said(tmp_path: Path, body: str, expected: str) -> None:
    """In words that name the rule or the mistake."""
    code, said = run(tmp_path, body)

    assert code != 0
    assert expected in said


def test_a_mark_of_the_module_is_for_the_tests_that_use_a_seed(tmp_path: Path) -> None:
    """Others of the module are left alone; a world that a fixture of one's own adds to is still a world."""
    body = """
pytestmark = pytest.mark.seeds(3)

@pytest.fixture
def world(world):
    world.happen("arranged before")
    return world

def test_plain():
    pass

async def test_seeded(runtime, world):
    assert world.happened("arranged before") == 1
    async with runtime([echo]) as running:
        assert (await running.ask("s", "echo", 1, key="k")).value == 1
"""
    code, said = run(tmp_path, body)

    assert code == 0, said
    assert "4 passed" in said


def test_a_test_with_fixtures_of_its_own_is_not_shrunk(tmp_path: Path) -> None:
    """They remember the first attempt, so every other one would fail for that reason."""
    body = """
@pytest.fixture
def paid():
    return []

@pytest.mark.seeds(2)
async def test_paid(world, paid):
    paid.append(1)
    assert len(paid) == 2
"""
    code, said = run(tmp_path, body)

    assert code == 1
    assert "its schedule is not made smaller" in said


def test_a_fixture_of_ones_own_with_the_same_name_is_left_alone(tmp_path: Path) -> None:
    """`world` is a common word: a test with its own is run as it always was."""
    body = """
@pytest.fixture
def world():
    return "mine"

@pytest.mark.anyio
async def test_mine(world, anyio_backend_name):
    assert world == "mine"
    assert asyncio.get_running_loop().time() > 1
"""
    code, said = run(tmp_path, body, "-k", "asyncio")

    assert code == 0, said
    assert "passed" in said
