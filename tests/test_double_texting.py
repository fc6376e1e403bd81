"""Double texting: ours with real messages at once, and a count that finds whatever may not be."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks._lines import Line
from benchmarks._programs import System
from benchmarks.double_texting import __main__ as command
from benchmarks.double_texting._counted import broken, count
from benchmarks.double_texting._texting import TEXTS, What, reply_to

OURS = "benchmarks.double_texting._ours"
PEERS = [system for system in command.SYSTEMS if not system.ours]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_messages_at_once_are_all_kept_in_order_one_turn_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes: one that sends, another that reads what is kept."""
    code = command.main(["--no-peers", "--rounds", "1", "--check", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours, peers = [row["system"] for row in told["rows"]], set(told["skipped"])

    assert code == 0
    assert told["broken"] == []
    assert ours == [system.name for system in command.SYSTEMS if system.ours]
    assert peers == {system.name for system in PEERS}
    for row in told["rows"]:
        assert row["at once"] == 1
        assert row["in order"] == 1
        assert row["lost"] == 0
        assert row["settings"] == "WAL, synchronous=FULL"
    queue = told["rows"][0]
    assert queue["kept"] == queue["of"] == 2 * len(TEXTS)
    assert queue["answered"] == queue["calls"] == len(TEXTS)
    assert queue["errors"] == queue["unkept"] == 0
    assert queue["x floor"] >= 1.0
    assert list(tmp_path.iterdir()) == []


def test_turns_that_run_side_by_side_are_reported_and_check_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planted fault: a session for every message. What was broken is printed either way, and its round kept."""
    monkeypatch.setattr(command, "SYSTEMS", (System("ours, apart", OURS, "apart"),))
    codes = [command.main(["--rounds", "1", *check]) for check in ([], ["--check"])]

    assert codes == [0, 1]
    assert f"broken: ours, apart: {len(TEXTS)} turns ran at once" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 2


def test_where_nothing_asked_the_model_there_is_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program with a mistake in it is no row of errors; ours is broken then, and a peer is skipped."""
    texts = command.Texts(tmp_path, patience_s=60.0)
    peer = System("a peer", "benchmarks.nowhere", "", ("peer",))
    for system in (System("ours, nowhere", "benchmarks.nowhere", ""), peer):
        texts.run(system, Path(sys.executable), 0)

    assert len(texts.wrong) == 1
    assert texts.skipped == {"a peer": "failed"}
    assert texts.rows() == []
    assert "No module named benchmarks.nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("module", sorted({system.module for system in PEERS}))
def test_a_peers_program_is_python_and_has_what_a_round_asks_of_it(module: str) -> None:
    """It cannot be imported here: what it drives is installed elsewhere."""
    file = Path(command.__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    source = file.read_text()
    compiled = compile(source, str(file), "exec")

    assert {"send", "look", "main"} <= set(compiled.co_names)
    assert "turnkeeper" not in source


def test_every_peer_has_its_version_and_says_what_it_brings() -> None:
    """A table of other people's work without either is worth nothing."""
    assert all("==" in package for system in PEERS for package in system.packages)
    assert all(system.brings for system in command.SYSTEMS)


def said(*what: tuple[What, str]) -> list[Line]:
    """Return lines, a second apart, the second life from where something is kept."""
    return [Line(kind, of, 1 + (kind is What.KEPT), float(at)) for at, (kind, of) in enumerate(what)]


def turn(text: str) -> list[tuple[What, str]]:
    """Return what is said of a turn that goes as it should."""
    order = (What.SENT, What.ACCEPTED, What.CALLED, What.SPENT, What.ANSWERED)
    return [*[(what, text) for what in order], (What.TOLD, reply_to(text))]


def kept(*texts: str) -> list[tuple[What, str]]:
    """Return what is said of turns that are kept whole."""
    return [(What.KEPT, message) for text in texts for message in (text, reply_to(text))]


EVERY_TURN = [line for text in TEXTS for line in turn(text)]


def test_what_went_well_breaks_nothing() -> None:
    """All are kept; times are from the first message until the last caller knows."""
    found = count(said((What.SETTINGS, "WAL"), *EVERY_TURN, *kept(*TEXTS)))

    assert broken(found) == []
    assert (found.at_once, found.sent, found.kept, found.in_order) == (1, 16, 16, True)
    assert (found.answered, found.errors, found.lost, found.calls, found.unkept) == (8, 0, 0, 8, 0)
    assert found.seconds == len(EVERY_TURN) - 2  # the last line says which reply it was


def test_what_was_answered_and_is_not_kept_is_lost() -> None:
    """Message and reply both; the call of the model was paid for."""
    found = count(said(*EVERY_TURN, *kept(*TEXTS[1:])))

    assert broken(found) == broken(found, whole=False) == ["2 messages not kept"]
    assert (found.lost, found.calls, found.unkept, found.in_order) == (2, 8, 1, True)


def test_what_was_refused_is_not_lost() -> None:
    """Its caller knows, and may send it again."""
    first, *others = TEXTS
    refused = [(What.SENT, first), (What.CALLED, first), (What.SPENT, first), (What.REFUSED, first)]
    found = count(said(*refused, *[line for text in others for line in turn(text)], *kept(*others)))

    assert broken(found) == ["2 messages not kept"]
    assert broken(found, whole=False) == []
    assert (found.lost, found.errors, found.answered, found.unkept) == (0, 1, 7, 1)


def test_a_message_that_was_accepted_and_then_refused_has_to_be_kept_all_the_same() -> None:
    """It was acknowledged. Its reply was not."""
    first, *others = TEXTS
    refused = [(What.SENT, first), (What.ACCEPTED, first), (What.REFUSED, first)]
    found = count(said(*refused, *[line for text in others for line in turn(text)], *kept(*others)))

    assert found.lost == 1
    assert broken(found, whole=False) == ["1 messages not kept"]


def test_a_reply_that_a_caller_has_and_nobody_finds_is_lost_whoever_it_was_for() -> None:
    """Two callers who have one reply have lost none."""
    first, other, *_ = TEXTS
    shared = [(What.TOLD, reply_to(first)), (What.TOLD, reply_to(first))]
    found = count(said((What.SENT, first), *shared, *kept(first)))
    unfound = count(said((What.SENT, first), *shared, (What.TOLD, reply_to(other)), *kept(first)))

    assert (found.lost, unfound.lost) == (0, 1)


@pytest.mark.parametrize(
    "history",
    [
        kept(*reversed(TEXTS)),
        [(What.KEPT, text) for text in TEXTS] + [(What.KEPT, reply_to(text)) for text in TEXTS],
        kept(*TEXTS, TEXTS[0]),
    ],
    ids=["in another order", "replies after all messages", "one twice"],
)
def test_a_history_in_any_other_order_is_out_of_order(history: list[tuple[What, str]]) -> None:
    """Though every message is there."""
    found = count(said(*EVERY_TURN, *history))

    assert broken(found) == ["messages out of order"]
    assert found.kept == found.sent


def test_calls_that_overlap_are_turns_at_once() -> None:
    """Two begin before one has ended."""
    one, other, *_ = TEXTS
    lines = [(What.SENT, one), (What.CALLED, one), (What.CALLED, other), (What.SPENT, one), (What.SPENT, other)]
    found = count(said(*lines, *EVERY_TURN, *kept(*TEXTS)))

    assert found.at_once == 2
    assert broken(found) == ["2 turns ran at once"]


def test_a_reply_that_is_paid_for_again_and_kept_once_is_unkept_once() -> None:
    """What a caller who retries pays."""
    again = [(What.CALLED, TEXTS[0]), (What.SPENT, TEXTS[0])]
    found = count(said(*again, *EVERY_TURN, *kept(*TEXTS)))

    assert (found.calls, found.unkept) == (9, 1)
    assert broken(found) == []
