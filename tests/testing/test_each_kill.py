"""Kills: a life killed at each of its points, and what the kit finds where a promise is broken."""

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from lives import conversations
from msgspec import structs

from turnkeeper.actors.receipt import Result
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import NodeStarted
from turnkeeper.testing.kills import KillViolated, each_kill, main
from turnkeeper.testing.process import (
    ENDS,
    ONCE,
    OPENS,
    STAYS,
    Acknowledged,
    Delivered,
    ProcessWorld,
    acknowledgements,
    check,
    command,
    effects,
    live,
    origin,
)
from turnkeeper.testing.stopping import KillAt, PointedStore

REPEATABLE = ("notify",)


# ---------------------------------------------------------------- what is promised


def test_a_life_killed_at_every_third_point_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Asks in several sessions: after each kill the promises hold, and the next life finishes the work."""
    report = each_kill("lives:conversations", tmp_path, every=3, repeatable=REPEATABLE)

    assert report.violations == []
    assert report.points > 20
    assert report.kills >= report.points // 3 - 2
    assert report.processes > 2 * report.kills
    assert report.acknowledged > 2 * report.kills
    assert report.effects > 4 * report.kills
    assert list(tmp_path.iterdir()) == []


def test_bursts_with_duplicates_killed_at_points_all_over_lose_nothing(tmp_path: Path) -> None:
    """Concurrent tells, some of them twice: one key is one turn, before the kill and after it."""
    report = each_kill("lives:bursts", tmp_path, every=6, repeatable=REPEATABLE)

    assert report.violations == []
    assert report.points > 20
    assert report.kills >= report.points // 6 - 2
    assert report.processes > 2 * report.kills


def test_a_doubt_and_its_fork_killed_at_every_third_point_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """An operator answers, an effect is under way beside the doubt, and the turn is forked meanwhile."""
    report = each_kill("turnkeeper.testing.scenarios.doubts:small", tmp_path, every=3)

    assert report.violations == []
    assert report.kills >= report.points // 3 - 2 > 5
    assert report.effects > 4 * report.kills


def test_three_agents_killed_at_every_fifth_point_come_to_the_same_answer(tmp_path: Path) -> None:
    """Triage hands to billing, billing asks pricing and waits for a person; the life itself checks what it comes to."""
    life = "turnkeeper.testing.scenarios.waiting:small"
    report = each_kill(life, tmp_path, every=5, repeatable=("book", "answer"))

    assert report.violations == []
    assert report.points > 30
    assert report.kills >= report.points // 5 - 2


# ---------------------------------------------------------------- what is found


def test_an_effect_that_happens_twice_is_found_and_the_message_repeats_it(tmp_path: Path) -> None:
    """The line in the message, given to a shell, finds it again."""
    with pytest.raises(KillViolated, match="an effect happens once") as violated:
        each_kill("lives:careless", tmp_path)

    found = violated.value.report.violations[0]
    again = subprocess.run(["/bin/sh", "-c", found.command], capture_output=True, text=True, check=False, timeout=60)

    assert found.command in str(violated.value)
    assert again.returncode == 1, again.stderr
    assert f"killed at point {found.at}" in again.stdout


def test_a_life_that_raises_after_a_kill_is_found_with_its_reason(tmp_path: Path) -> None:
    """The end of its traceback is shown."""
    with pytest.raises(KillViolated, match="RuntimeError: out of order"):
        each_kill("lives:raising", tmp_path)


def test_a_life_that_does_not_end_is_found_and_not_left_behind(tmp_path: Path) -> None:
    """It has a limit; past it the process is gone, and reaped."""
    with pytest.raises(KillViolated, match="did not end within 3 s"):
        each_kill("lives:stuck", tmp_path, every=100, timeout_s=3.0)

    left = [int(effect) for world in tmp_path.iterdir() for effect in effects(world)]

    assert left
    for process in left:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    """Before any process is started."""

    for life in ("lives", "lives:none", "nowhere:life", "sys:exit", "sys:path", ":"):
        with pytest.raises(ValueError, match=r"life|imported"):
            each_kill(life, tmp_path)
    with pytest.raises(ValueError, match="every"):
        each_kill("lives:conversations", tmp_path, every=0)


def test_the_command_says_what_was_done_and_exits_by_what_it_found(capsys: pytest.CaptureFixture) -> None:
    """0 where every promise held, 1 where one was broken, 2 for bad input."""
    held = main(["lives:conversations", "--at", "9", "--repeatable", "notify"])
    said = capsys.readouterr().out
    broken = main(["lives:raising", "--at", "3"])
    found = capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        main(["lives:none"])

    assert (held, broken, refused.value.code) == (0, 1, 2)
    assert "processes            2" in said
    assert "out of order" in found
    assert "Traceback" not in capsys.readouterr().err


# ---------------------------------------------------------------- one process


def lived(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one life of the conversations in a process of its own."""
    line = command("lives:conversations", tmp_path, *arguments)
    environment = {**os.environ, "PYTHONPATH": str(origin("lives:conversations"))}
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_process_kills_itself_at_the_point_it_is_told(tmp_path: Path) -> None:
    """With a signal that nothing can catch; the life after it returns, with exit code 0."""
    killed = lived(tmp_path, "--life", 1, "--kill-at", 12)
    returned = lived(tmp_path, "--life", 2, "--synchronous", "OFF")

    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    assert (returned.returncode, returned.stderr) == (0, "")
    assert check(tmp_path, repeatable=REPEATABLE) == []


async def test_a_pointed_store_passes_a_point_before_and_after_each_commit(tmp_path: Path) -> None:
    """And is the store behind it in everything else."""

    class Noted:
        def __init__(self) -> None:
            self.points: list[str] = []

        def reached(self, point: str, subject: str) -> None:
            self.points.append(point)

    noted = Noted()
    store = PointedStore(SqliteStore(tmp_path / "a.db", store_id="s", created_at=0.0), noted)
    marks = await store.open()
    rejected = await store.apply([[NodeStarted(1, 1, 0.0, 1.0)]])
    nothing = (await store.live_turns(), await store.turn(1), await store.edges(1), await store.deliverable(1))
    await store.close()

    assert marks.store_id == "s"
    assert rejected == {}
    assert nothing == ([], None, [], None)
    assert noted.points == ["commit.before", "commit.after"]


# ---------------------------------------------------------------- a world


def world_after_a_life(folder: Path) -> Path:
    with ProcessWorld(folder, synchronous="OFF") as world:
        live(conversations, world)
    return folder


def rules(folder: Path, **options: object) -> set[str]:
    return {violation.rule for violation in check(folder, repeatable=REPEATABLE, **options)}


def test_a_world_keeps_what_it_was_told_and_what_happened(tmp_path: Path) -> None:
    """Each ask is acknowledged and delivered once, and the same life after it is answered with the same."""
    first = acknowledgements(world_after_a_life(tmp_path))
    second = acknowledgements(world_after_a_life(tmp_path))[len(first) :]

    assert [type(line) for line in first].count(Acknowledged) == 4
    assert [type(line) for line in first].count(Delivered) == 4
    assert set(first) == set(second)
    assert len(effects(tmp_path)) == 8
    assert check(tmp_path) == []


def test_a_line_cut_off_by_a_kill_did_not_happen_and_is_cut_away(tmp_path: Path) -> None:
    """The next line begins where it began."""
    with ProcessWorld(tmp_path) as world:
        world.happen("first")
    with (tmp_path / "effects.log").open("ab") as log:
        log.write(b'{"effect":"seco')
    cut_off = effects(tmp_path)
    with ProcessWorld(tmp_path, life=2) as world:
        counted = (world.happened("first"), world.happened("second"))
        world.happen("third")

    assert cut_off == ["first"]
    assert counted == (1, 0)
    assert effects(tmp_path) == ["first", "third"]


def test_a_world_draws_the_same_from_the_same_seed(tmp_path: Path) -> None:
    """In every life anew."""
    draws = [ProcessWorld(tmp_path, seed=seed, life=life).chance.random() for seed, life in ((7, 1), (7, 2), (8, 1))]

    assert draws[0] == draws[1] != draws[2]


def test_the_check_finds_what_was_acknowledged_and_is_not_there(tmp_path: Path) -> None:
    """Under its key, at its address, as its turn; and a deliverable byte for byte."""
    world_after_a_life(tmp_path)
    result = Result(turn_id=1, outcome="completed", body=b"other", at=0.0)
    receipt = SimpleNamespace(address=Address("", "s0", "desk"), key="order 9", receipt_id=1)
    with ProcessWorld(tmp_path) as world:
        world.acknowledged(receipt)
        world.delivered(result)
        world.delivered(structs.replace(result, turn_id=99))
    found = check(tmp_path, repeatable=REPEATABLE)

    assert {violation.rule for violation in found} == {STAYS}
    assert [violation.what for violation in found] == [
        "receipt 1 is not in the store",
        "its deliverable is not the one that a client has",
        "its deliverable, which a client has, is not there",
    ]


def test_the_check_finds_what_happened_twice_or_never_ended_or_is_no_store(tmp_path: Path) -> None:
    """An effect that may happen again is the caller's to name; a turn that has not ended is one after a kill."""
    killed = lived(tmp_path / "killed", "--life", 1, "--kill-at", 12)
    world = world_after_a_life(tmp_path / "whole")
    with ProcessWorld(world) as again:
        again.happen("notify s0/0")
        again.happen("charge s0/0")
    (tmp_path / "none").mkdir()

    assert killed.returncode == -signal.SIGKILL
    assert rules(tmp_path / "killed", ended=False) == set()
    assert rules(tmp_path / "killed") == {ENDS}
    assert [violation.where for violation in check(world, repeatable=REPEATABLE)] == ["charge s0/0"]
    assert rules(world) == {ONCE}
    assert rules(tmp_path / "none") == {OPENS}


def test_points_are_counted() -> None:
    """A life that is not to be killed passes them all."""
    points = KillAt(None)
    for _ in range(3):
        points.reached("commit.before", "")

    assert points.passed == 3
