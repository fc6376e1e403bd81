"""Looking back from the command line: each question, for people and for machines, of a store that is used or not."""

import asyncio
import json
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from turnkeeper import Effect, Runtime, Turn, agent, tool
from turnkeeper.actors.store.file import migrate
from turnkeeper.cli.app import group
from turnkeeper.kernel.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "schema-1.db"
ESCAPES = "\x1b[2J\x1b]0;title\x07 [red]alert[/red]"
DONE, FAILED, DOUBT, BEHIND = 1, 3, 4, 5
"""The turns of the store that `filled` makes; number 2 is a duplicate's."""


@tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
async def refund(order: str, note: str = "") -> str:
    if order == "slow":
        await asyncio.Event().wait()
    return f"refunded {order}"


@agent("desk", tools=[refund])
async def desk(turn: Turn) -> str:
    done = await turn.call(refund, turn.input, ESCAPES)
    if turn.input == "broken":
        raise ValueError(ESCAPES)
    return done


async def fill(path: Path) -> None:
    async with Runtime(path, [desk], settings=Settings(retries_max=0, shutdown_s=0.01)) as runtime:
        await runtime.ask("alice", "desk", "w1", key="good")
        await runtime.ask("alice", "desk", "w1", key="good")
        await runtime.ask("alice", "desk", "broken", key="bad")
        await runtime.tell("carol", "desk", "slow", key=ESCAPES, tenant="acme")
        await runtime.tell("carol", "desk", "w2", key="behind", tenant="acme")
        with anyio.fail_after(10):
            while runtime.statistics().suspended == 0:
                await anyio.lowlevel.checkpoint()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "agents.db"
    asyncio.run(fill(path))
    return path


def said(*args: object) -> str:
    """Return what a command says to people."""
    ended = CliRunner().invoke(group, list(map(str, args)))
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return ended.output


def data(*args: object) -> Any:
    """Return what a command says to machines: strict JSON on one line."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (line,) = said(*args, "--json").splitlines()
    return json.loads(line, parse_constant=refuse)


# ---------------------------------------------------------------- the answers


def test_a_turn_is_explained_on_one_screen(filled: Path) -> None:
    """What happened, what it waits for and what comes next; the command in it names this store."""
    lines = said("explain", filled, DOUBT).splitlines()

    assert len(lines) <= 24
    assert lines[0] == f"turn {DOUBT} of acme/carol/desk: suspended, attempt 1"
    assert re.search(r"ago  accepted under key", lines[1])
    found = data("explain", filled, DOUBT)
    token = found["doubt"]["token"]
    assert token
    answers = "(--happened JSON | --did-not-happen | --give-up)"
    assert f"turnkeeper resolve {filled} {DOUBT} --token {token} {answers}" in "\n".join(lines)
    assert found["doubt"]["arguments"] == {"order": "slow", "note": ESCAPES}
    assert (found["waits_for"], bool(found["next"])) != ("", False)


def test_a_path_with_spaces_is_quoted_in_commands(filled: Path, tmp_path: Path) -> None:
    """A command that is shown can be pasted."""
    copy = tmp_path / "two words.db"
    with closing(sqlite3.connect(filled)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)

    assert f"turnkeeper replay-plan '{copy}' {FAILED}" in said("explain", copy, FAILED)


def test_a_long_turn_says_how_much_is_left_out(path: Path) -> None:
    """Where the gap is."""

    @agent("walker")
    async def walker(turn: Turn) -> None:
        for _ in range(40):
            await turn.step("walk", lambda: None)

    async def walk() -> None:
        async with Runtime(path, [walker]) as runtime:
            await runtime.ask("s", "walker", None)

    asyncio.run(walk())
    lines = said("explain", path, 1).splitlines()

    assert lines[4].strip() == "... 31 more"
    assert "walk[#0] answered" in lines[3]
    assert "walk[#32] answered" in lines[5]


def test_two_turns_are_compared(filled: Path) -> None:
    """The first difference first, then each side by side."""
    lines = said("diff", filled, DONE, FAILED).splitlines()
    found = data("diff", filled, DONE, FAILED)

    assert lines[:2] == ["the same in both: no step", "the first difference: input, payload"]
    first = found["different"][0]
    assert (first["where"], first["a"], first["b"]) == ("input", "w1", "broken")
    assert "do not differ" in said("diff", filled, DONE, DONE)


def test_receipts_are_listed_and_narrowed(filled: Path) -> None:
    """By age, trouble and duplicates."""

    def listed(*options: object) -> list[int]:
        return [one["receipt_id"] for one in data("receipts", filled, *options)["receipts"]]

    assert listed() == [DOUBT, BEHIND]
    assert listed("--older-than", "1h") == []
    assert listed("--duplicated") == [DONE]
    assert listed("--stuck") == []
    assert listed("--limit", 1) == [DOUBT]
    assert data("receipts", filled, "--limit", 1)["left_out"] is True
    assert "its place behind turn" in said("receipts", filled)
    assert "the first 1 receipt; there are more" in said("receipts", filled, "--limit", 1)
    assert said("receipts", filled, "--stuck").splitlines()[-1] == "0 receipts"


def test_a_replay_is_planned(filled: Path) -> None:
    """The verdict, what blocks it, and what to do instead."""
    assert [data("replay-plan", filled, one)["verdict"] for one in (DONE, FAILED, DOUBT, BEHIND)] == [
        "terminal_completed",
        "blocked_processing",
        "blocked_processing",
        "blocked_processing",
    ]
    output = said("replay-plan", filled, FAILED)
    assert re.search(r"verdict  blocked_processing\n +blocked by  refund\[#0\] happened\n", output)
    assert f"turnkeeper fork {filled} {FAILED} --from-step 1" in output


def test_doubts_are_listed_with_what_answers_them(filled: Path) -> None:
    """Tool, arguments, key and command."""
    output = said("doubts", filled)
    (found,) = data("doubts", filled)["doubts"]

    assert (found["turn_id"], found["tool"], found["arguments"]["order"]) == (DOUBT, "refund", "slow")
    assert f"turnkeeper resolve {filled} {DOUBT} --token {found['token']} (" in output
    assert found["idempotency_key"] in output
    assert output.splitlines()[-1] == "1 effect in doubt"


def test_a_checkpoint_is_shown(filled: Path) -> None:
    """Its steps and messages in the order of issue."""
    found = data("checkpoint", filled, DONE)

    assert [one["step"] for one in found["steps"]] == ["refund[#0]"]
    assert [one["role"] for one in found["messages"]] == ["user", "call", "tool", "assistant"]
    assert found["value"] == "refunded w1"
    output = said("checkpoint", filled, DONE)
    assert "messages" in output
    assert "refunded w1" in output
    assert "it stands on refund[#0]" in said("checkpoint", filled, DOUBT)


def test_nothing_stored_steers_the_terminal(filled: Path) -> None:
    """Names, keys, arguments and errors are shown as they are."""
    questions = [(name, number) for name in ("explain", "replay-plan", "checkpoint") for number in (FAILED, DOUBT)]
    for args in (*questions, ("diff", DONE, FAILED), ("receipts",), ("doubts",)):
        output = said(args[0], filled, *args[1:])
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", output), args
    assert "[red]alert[/red]" in said("explain", filled, FAILED)


def test_no_question_changes_the_file(filled: Path, rows: Any) -> None:
    """Not a row of it."""
    before = rows(filled)
    for number in (DONE, FAILED, DOUBT, BEHIND):
        for question in ("explain", "replay-plan", "checkpoint"):
            said(question, filled, number)
        said("diff", filled, number, DONE)
    for question in ("receipts", "doubts", "events"):
        said(question, filled)

    assert rows(filled) == before


# ---------------------------------------------------------------- events


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_events_are_json_lines_in_the_order_of_commits(filled: Path) -> None:
    """A page after another; `--since` goes on behind an offset."""
    found = events(said("events", filled))
    offsets = [one["offset"] for one in found]

    assert offsets == sorted(set(offsets))
    assert [one["kind"] for one in found if one["turn_id"] == DONE] == [
        *("created", "updated", "updated", "updated", "finalized")
    ]
    assert events(said("events", filled, "--since", offsets[2])) == found[3:]
    assert events(said("events", filled, "--since", offsets[-1])) == []


@pytest.mark.parametrize("end", ["interrupt", "the reader goes"])
def test_events_are_followed_while_a_runtime_runs(command: Any, path: Path, end: str) -> None:
    """What is committed meanwhile comes; it ends without a word when it is interrupted, or nobody reads any more."""

    async def run(child: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with Runtime(path, [desk]) as runtime:
            for number in range(2):
                turn_id = (await runtime.ask("s", "desk", f"w{number}")).turn_id
                while not found or (found[-1]["turn_id"], found[-1]["kind"]) != (turn_id, "finalized"):
                    found.append(json.loads(await asyncio.to_thread(child.stdout.readline)))
        return found

    asyncio.run(fill(path))
    before = len(events(said("events", path)))
    child = command.start("events", path, "--follow")
    found = asyncio.run(run(child))
    if end == "interrupt":
        child.send_signal(signal.SIGINT)
    else:
        child.stdout.close()
    code = child.wait(30)

    assert len(found) > before
    assert child.stderr.read() == ""
    assert code == 0
    if end != "interrupt":
        child.stdout = None


# ---------------------------------------------------------------- what cannot be answered


QUESTIONS = [
    ("explain", 1),
    ("diff", 1, 1),
    ("receipts",),
    ("replay-plan", 1),
    ("doubts",),
    ("checkpoint", 1),
    ("events",),
]
ABOUT_A_TURN = [question for question in QUESTIONS if len(question) > 1]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question[0])
@pytest.mark.parametrize("what", ["nothing there", "no store", "an older schema", "a folder"])
def test_what_cannot_be_read_is_refused_in_one_line(
    inside: Any, path: Path, tmp_path: Path, question: tuple[Any, ...], what: str
) -> None:
    """Exit code 2, no traceback; a file is never made, nor brought up to date."""
    if what == "no store":
        path.write_text("hello, world" * 100)
    elif what == "an older schema":
        shutil.copy(GOLDEN, path)
    elif what == "a folder":
        path = tmp_path
    content = path.read_bytes() if path.is_file() else None
    ended = inside(question[0], path, *question[1:])

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert (path.read_bytes() if path.is_file() else None) == content
    if what == "an older schema":
        assert "has schema 1" in ended.stderr


@pytest.mark.parametrize("question", ABOUT_A_TURN, ids=lambda question: question[0])
@pytest.mark.parametrize("number", ["99", "-1", "first", str(2**63)])
def test_a_turn_that_is_not_there_is_named(inside: Any, filled: Path, question: tuple[Any, ...], number: str) -> None:
    """Exit code 2; the last line says which."""
    ended = inside(question[0], filled, *([number] * len(question[1:])))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert number.lstrip("-") in ended.stderr


@pytest.mark.parametrize("question", [*ABOUT_A_TURN, ("doubts",)], ids=lambda question: question[0])
def test_damage_is_refused_in_words(inside: Any, path: Path, question: tuple[Any, ...]) -> None:
    """Exit code 2, and who says more; the other commands go on."""
    asyncio.run(fill(path))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER edges_never_change")
        connection.execute("UPDATE edges SET detail = x'92' WHERE ordinal = 2")
        connection.commit()
    ended = inside(question[0], path, *([DOUBT] * len(question[1:])))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert "turnkeeper audit" in ended.stderr
    assert data("receipts", path)["receipts"]


@pytest.mark.parametrize("duration", ["soon", "", "1w", "nan", "inf", "-1", "-1h", "h"])
def test_a_duration_that_is_none_is_refused(inside: Any, filled: Path, duration: str) -> None:
    """With an example of one."""
    ended = inside("receipts", filled, "--older-than", duration)

    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "15m" in ended.stderr


def test_a_store_that_was_brought_up_to_date_is_answered(path: Path) -> None:
    """Once a runtime has opened it: what a killed process left says why it is stuck."""
    shutil.copy(GOLDEN, path)
    migrate(path, "unused", 0.0)

    for number in (1, 3, 4, 5, 6, 7):
        assert "waits for" in said("explain", path, number)
    assert 7 in [one["turn_id"] for one in data("receipts", path, "--stuck")["receipts"]]
