"""The crash ledger: ours through real kills, and a ledger that reports whatever may not be."""

import json
import sys
from pathlib import Path
from random import Random

import pytest

from benchmarks import _envs, _programs
from benchmarks._lines import Line, read
from benchmarks._programs import ProgramFailed, System, pythons
from benchmarks.crash_ledger import __main__ as command
from benchmarks.crash_ledger._counted import broken, count
from benchmarks.crash_ledger._outside import EFFECTS, What, effect
from benchmarks.crash_ledger._round import OURS, run_round

RETRY = System("ours, retry", OURS, "retry")
"""Ours with tools that say of each effect that it may be repeated: what nobody may find unreported."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_kills_with_32_turns_in_flight_lose_repeat_and_hide_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes, killed: every acknowledged turn is delivered, every effect is there once, all doubt is listed."""
    code = command.main(["--no-peers", "--rounds", "2", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert code == 0
    assert told["broken"] == []
    assert [row["system"] for row in told["rows"]] == ["ours, ask", "ours, probe"]
    for row in told["rows"]:
        assert row["acknowledged"] >= 2 * 32
        assert row["in flight at kill"] >= 31  # a client may be between two turns
        assert row["owed at kill"] > 0
        assert row["lost"] == row["repeated"] == row["skipped"] == row["in doubt, hidden"] == 0
        assert row["in doubt, listed"] > 0
        assert row["settings"] == "WAL, synchronous=FULL"
        assert 0 < row["first live s"] <= row["all live s"]
    assert list(tmp_path.iterdir()) == []


def test_a_doubt_that_is_answered_by_repeating_is_reported_and_its_round_is_kept(tmp_path: Path) -> None:
    """The planted fault: tools that promise a second call does no harm, where it does."""
    ledger = command.Ledger(tmp_path, seed=0, patience_s=60.0)
    ledger.run(RETRY, Path(sys.executable), 0)
    (found,) = ledger.rounds[RETRY]
    (kept,) = tmp_path.iterdir()

    assert found.counted.repeated > 0
    assert found.counted.lost == 0
    assert any(f"{found.counted.repeated} effects repeated" in line and str(kept) in line for line in ledger.wrong)
    assert len(read(kept)) > 0


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    """A system that does not even start is no row of zeros."""
    with pytest.raises(ProgramFailed, match=r"did not get under way.*nonsense"):
        run_round(System("ours, nonsense", OURS, "nonsense"), Path(sys.executable), tmp_path, Random(0), 60.0)


def test_where_ours_fails_the_ledger_is_broken_and_where_a_peer_does_it_is_skipped(tmp_path: Path) -> None:
    """Neither is a row of figures that nobody saw."""
    ledger = command.Ledger(tmp_path, seed=0, patience_s=60.0)
    for system in (System("ours, nonsense", OURS, "nonsense"), System("a peer", "benchmarks.nowhere", "", ("peer",))):
        ledger.run(system, Path(sys.executable), 0)

    assert len(ledger.wrong) == 1
    assert ledger.skipped == {"a peer": "failed"}
    assert ledger.rows() == []


def test_a_peer_that_cannot_be_installed_is_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: the others are measured all the same."""

    def fail(packages: tuple[str, ...], folder: Path) -> Path:
        raise _envs.NotInstallable(packages, "no network")

    monkeypatch.setattr(_programs, "python_of", fail)
    skipped: dict[str, str] = {}
    found = pythons(command.SYSTEMS, Path("envs"), skipped, peers=True)

    assert [system.module for system in found] == [OURS, OURS]
    assert set(skipped.values()) == {"uninstallable"}
    assert len(skipped) == len(command.SYSTEMS) - 2


def lived(*said: tuple[int, What, str]) -> list[Line]:
    """Return lines, a second apart, the second life entered before any other line of it."""
    lines = [(1, What.ENTERED, ""), *(line for line in said if line[0] == 1), (2, What.ENTERED, "")]
    lines += [line for line in said if line[0] > 1]
    return [Line(what, of, life, float(at)) for at, (life, what, of) in enumerate(lines)]


def whole(turn: str, life: int) -> list[tuple[int, What, str]]:
    """Return a turn that goes as it should, in one life."""
    acts = [(life, what, effect(turn, step)) for step in EFFECTS for what in (What.BEGUN, What.HAPPENED)]
    return [
        (1, What.SENT, turn),
        (1, What.ACKNOWLEDGED, turn),
        (life, What.LIVE, turn),
        *acts,
        (life, What.DELIVERED, turn),
    ]


def test_what_went_well_breaks_nothing() -> None:
    """One turn before the kill, one after it; times are from where the runtime is entered."""
    found = count(lived(*whole("a", 1), *whole("b", 2)), set(), started_at=0.0)

    assert broken(found) == []
    assert (found.acknowledged, found.in_flight, found.owed, found.effects) == (2, 1, 1, 6)
    assert (found.first_live_s, found.all_live_s, found.ended_s) == (1.0, 1.0, 8.0)
    assert found.start_s > 0


def test_a_turn_that_was_acknowledged_and_never_delivered_is_lost() -> None:
    """Whatever else happened."""
    lines = [line for line in lived(*whole("a", 1), *whole("b", 2)) if (line.what, line.of) != (What.DELIVERED, "b")]
    found = count(lines, set(), started_at=0.0)

    assert broken(found) == ["1 acknowledged turns lost"]


def test_an_effect_that_happened_in_both_lives_is_repeated_each_time() -> None:
    """Three lines of one effect are two too many."""
    again = (2, What.HAPPENED, effect("a", EFFECTS[0]))
    found = count(lived(*whole("a", 1), again, again), set(), started_at=0.0)

    assert broken(found) == ["2 effects repeated"]


def test_an_effect_of_a_delivered_turn_that_never_happened_is_skipped() -> None:
    """A doubt answered with yes where it was no."""
    lines = [line for line in lived(*whole("a", 1)) if (line.what, line.of) != (What.HAPPENED, effect("a", EFFECTS[1]))]
    found = count(lines, set(), started_at=0.0)

    assert broken(found) == ["1 effects skipped"]


def test_an_effect_without_a_record_that_nobody_lists_is_hidden() -> None:
    """Two in doubt, one listed."""
    one, other = effect("a", EFFECTS[0]), effect("a", EFFECTS[1])
    found = count(lived(*whole("a", 1), (2, What.LISTED, one)), {one, other}, started_at=0.0)

    assert (found.in_doubt, found.hidden) == (1, 1)
    assert broken(found) == ["1 effects in doubt and not listed"]


def test_what_was_not_seen_has_no_figure() -> None:
    """A system without doubts to list, in which nothing had to be recovered."""
    found = count(lived(*whole("a", 1)), None, started_at=0.0)

    assert found.in_doubt is found.hidden is found.first_live_s is found.all_live_s is found.ended_s is None
