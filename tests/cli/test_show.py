"""Show: sessions, a session's turns, a turn's edges and steps, for people and for machines, whatever is stored."""

import asyncio
import datetime as dt
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from click.testing import CliRunner

from turnkeeper import Effect, Runtime, Turn, agent, tool
from turnkeeper.cli.app import group
from turnkeeper.cli.show import session_view, sessions_view, turn_view
from turnkeeper.kernel.errors import InvalidName, StorageFailed, TurnkeeperError, TurnNotFound
from turnkeeper.kernel.settings import Settings

MARKUP = "[red]alert[/red] [/nothing] [link=https://example.org]x[/link]"
ESCAPES = "\x1b[2J\x1b]0;title\x07 \x9b31m"
VALUES: dict[str, Any] = {
    "markup": MARKUP,
    "escapes": ESCAPES,
    "not a number": [float("nan"), float("inf")],
    "bytes": b"\x00\xff",
    "keys": {"": 1, "[b]": {"\x1b": 2}},
    "moments": [dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.date(2026, 1, 2)],
    "extension": msgspec.msgpack.Ext(5, b"x"),
    "long": "word " * 1_000,
    "lines": "one\ntwo\r\nthree\ttabbed",
    "nothing": None,
    "non-Latin": "Maëlle 本 \u202e reversed",
}


@tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
async def refund(order: str, cents: int = 5) -> dict[str, int]:
    if order == "slow":
        await asyncio.Event().wait()
    if order == "broken":
        raise LookupError(MARKUP)
    return {order: cents}


@agent("desk", tools=[refund])
async def desk(turn: Turn) -> Any:
    if turn.session_id == "values":
        return await turn.step("echo", lambda value: value, turn.input)
    await turn.step("find", str.upper, turn.input)
    return await turn.call(refund, turn.input, cents=7)


@agent("clerk")
async def clerk(turn: Turn) -> Any:
    return turn.input


async def fill(path: Path) -> None:
    async with Runtime(path, [desk, clerk], settings=Settings(retries_max=0, shutdown_s=0.01)) as runtime:
        await runtime.ask("alice", "desk", "w1", key="good")
        await runtime.ask("alice", "desk", "w1", key="good")
        await runtime.ask("alice", "clerk", "w1", key="good")
        await runtime.ask("alice", "desk", "broken", key="bad")
        await runtime.tell("carol", "desk", "slow", key="doubt", tenant="acme")
        for key, value in VALUES.items():
            await runtime.ask("values", "desk", value, key=key)
        await runtime.ask(MARKUP, "desk", "w1", key=ESCAPES)
        with anyio.fail_after(10):
            while runtime.statistics().suspended == 0:
                await anyio.lowlevel.checkpoint()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "agents.db"
    asyncio.run(fill(path))
    return path


def shown(*args: object) -> str:
    """Return what the command shows."""
    ended = CliRunner().invoke(group, ["show", *map(str, args)])
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return ended.output


def data(*args: object) -> Any:
    """Return what the command shows machines: one strict JSON document on one line."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (line,) = shown(*args, "--json").splitlines()
    return json.loads(line, parse_constant=refuse)


def turn_of(path: Path, session: str, key: str, agent_id: str = "desk") -> dict[str, Any]:
    """Return a turn of a session, found by its key."""
    turns = data(path, session)["turns"]
    (found,) = [turn for turn in turns if turn["key"] == key and turn["agent"] == agent_id]
    return found


# ---------------------------------------------------------------- sessions and turns


def test_every_session_agent_is_listed(filled: Path) -> None:
    """In the order in which they were first spoken to, with what has become of their turns."""
    found = data(filled)

    assert found["path"] == str(filled)
    names = [(row["tenant"], row["session"], row["agent"]) for row in found["sessions"]]
    assert names == [
        ("", "alice", "desk"),
        ("", "alice", "clerk"),
        ("acme", "carol", "desk"),
        ("", "values", "desk"),
        ("", MARKUP, "desk"),
    ]
    counts = [(row["turns"], row["live"], row["failed"]) for row in found["sessions"]]
    assert counts == [(2, 0, 1), (1, 0, 0), (1, 1, 0), (len(VALUES), 0, 0), (1, 0, 0)]


def test_people_see_the_same_sessions(filled: Path) -> None:
    """One row each, under a heading."""
    lines = [line.split() for line in shown(filled).splitlines()]

    assert ["alice", "clerk", "1", "0", "0"] in [line[:5] for line in lines]
    assert ["session", "agent", "tenant", "turns", "live", "failed", "last", "seen"] in lines


def test_a_sessions_turns_are_listed_agent_by_agent(filled: Path) -> None:
    """With their state, their receipt's state, key and duplicates."""
    turns = data(filled, "alice")["turns"]

    assert [(turn["agent"], turn["key"], turn["state"], turn["receipt"], turn["duplicates"]) for turn in turns] == [
        ("desk", "good", "completed", "completed", 1),
        ("desk", "bad", "failed", "failed", 0),
        ("clerk", "good", "completed", "completed", 0),
    ]
    assert turn_of(filled, "carol", "doubt")["receipt"] == "processing"
    assert "duplicates" in shown(filled, "alice")


# ---------------------------------------------------------------- one turn


def test_a_turns_edges_are_shown_in_order(filled: Path) -> None:
    """Each with its ordinal, its epoch and what its detail says."""
    turn = data(filled, "alice", turn_of(filled, "alice", "good")["turn"])
    kinds = [edge["kind"] for edge in turn["edges"]]

    assert [edge["ordinal"] for edge in turn["edges"]] == list(range(len(kinds)))
    assert kinds[:2] == ["inbound_received", "lease_acquired"]
    assert kinds[-2:] == ["turn_completed", "duplicate_dropped"]
    inbound = turn["edges"][0]["detail"]
    assert (inbound["key"], inbound["payload"]) == ("good", "w1")
    assert turn["edges"][1]["epoch"] == 1
    assert turn["deliverable"]["value"] == {"w1": 7}


def test_a_turns_steps_are_shown_in_the_order_of_issue(filled: Path) -> None:
    """With effect, status, arguments and result; an effect with its idempotency key."""
    find, call = data(filled, "alice", turn_of(filled, "alice", "good")["turn"])["steps"]

    assert (find["step"], find["effect"], find["status"], find["result"]) == ("find[#0]", "pure", "succeeded", "W1")
    assert (call["step"], call["effect"], call["status"]) == ("refund[#0]", "effectful", "succeeded")
    assert call["arguments"] == {"order": "w1", "cents": 7}
    assert call["result"] == {"w1": 7}
    assert call["idempotency_key"].endswith("/refund/#0")
    assert find["idempotency_key"] is None


def test_a_failure_is_shown_with_its_reason(filled: Path) -> None:
    """In the step that failed, and as the turn's deliverable."""
    turn = data(filled, "alice", turn_of(filled, "alice", "bad")["turn"])
    (_, failed) = turn["steps"]

    assert failed["status"] == "failed"
    assert (failed["failure"]["type"], failed["failure"]["message"]) == ("LookupError", MARKUP)
    assert turn["deliverable"]["outcome"] == "failed"
    assert turn["deliverable"]["value"]["type"] == "StepFailed"


def test_a_turn_that_waits_shows_what_it_stands_on(filled: Path) -> None:
    """There is no deliverable; the suspension names the step."""
    turn = data(filled, "carol", turn_of(filled, "carol", "doubt")["turn"])

    assert (turn["state"], turn["deliverable"]) == ("suspended", None)
    assert turn["edges"][-1]["kind"] == "turn_suspended"
    assert turn["edges"][-1]["detail"]["step"] == ["refund", "#0"]
    assert turn["steps"][-1]["status"] == "unknown"
    assert "deliverable" not in shown(filled, "carol", turn["turn"])


# ---------------------------------------------------------------- whatever is stored


@pytest.mark.parametrize("key", VALUES)
def test_any_stored_value_can_be_shown(filled: Path, key: str) -> None:
    """Machines get strict JSON, people get tables: no value that the store takes stops either."""
    number = turn_of(filled, "values", key)["turn"]
    turn = data(filled, "values", number)

    assert turn["state"] == "completed"
    assert shown(filled, "values", number).count("echo[#0]") >= 1
    if isinstance(VALUES[key], str | None):
        assert turn["deliverable"]["value"] == VALUES[key]


def test_markup_in_names_and_values_is_shown_as_it_is(filled: Path) -> None:
    """Nothing stored is taken for the table's own markup."""
    number = turn_of(filled, "values", "markup")["turn"]

    for output in (shown(filled), shown(filled, MARKUP), shown(filled, "values", number)):
        assert "[red]alert[/red]" in output.replace("\n", " ")


def test_escapes_in_values_do_not_reach_the_terminal(filled: Path) -> None:
    """A stored value cannot clear the screen or set the title of whoever looks at it."""
    number = turn_of(filled, "values", "escapes")["turn"]

    for output in (shown(filled, MARKUP), shown(filled, "values", number)):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", output)


def test_a_damaged_turn_is_shown_as_far_as_it_can_be(filled: Path, path: Path) -> None:
    """Somebody who was sent here by the audit needs to see the edges; what cannot be read is said in a line."""
    shutil.copytree(filled.parent, path.parent, dirs_exist_ok=True)
    number = turn_of(path, "alice", "good")["turn"]
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER edges_never_change")
    connection.execute("UPDATE edges SET detail = x'c1' WHERE turn_id = ? AND ordinal = 3", (number,))
    connection.commit()
    connection.close()
    ended = CliRunner().invoke(group, ["show", str(path), "alice", str(number)])

    assert ended.exception is None or isinstance(ended.exception, SystemExit | TurnkeeperError), ended.exception


# ---------------------------------------------------------------- what is not there


def test_what_is_not_there_is_named(filled: Path, tmp_path: Path) -> None:
    """A session, a turn, another session's turn, a store."""
    elsewhere = turn_of(filled, "carol", "doubt")["turn"]
    with pytest.raises(InvalidName, match="'nobody' is not in"):
        session_view(filled, "nobody")
    for number in (0, -1, 9_999, elsewhere):
        with pytest.raises(TurnNotFound, match=f"no turn {number} in this store"):
            turn_view(filled, "alice", number)
    with pytest.raises(StorageFailed, match="does not exist"):
        sessions_view(tmp_path / "none.db")


@pytest.mark.parametrize(
    "args",
    [("nobody",), ("alice", "9999"), ("alice", "99999999999999999999"), ("alice", "first")],
    ids=lambda args: args[-1],
)
def test_the_command_refuses_what_is_not_there(inside: Any, filled: Path, args: tuple[str, ...]) -> None:
    """Exit code 2 and no traceback; the last line says what is wrong."""
    ended = inside("show", filled, *args)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert args[-1] in ended.stderr.splitlines()[-1]


def test_an_output_that_knows_no_umlauts_is_written_all_the_same(command: Any, filled: Path) -> None:
    """A pipe with another encoding gets what it can show."""
    number = turn_of(filled, "values", "non-Latin")["turn"]
    for options in ((), ("--json",)):
        ended = command.run(
            ["env", "PYTHONIOENCODING=ascii", *command.line("show", filled, "values", number, *options)]
        )

        assert ended.returncode == 0, ended.stderr[-500:]
        assert "Ma" in ended.stdout


def test_an_empty_store_shows_no_sessions(path: Path) -> None:
    """A runtime that was never spoken to has none."""

    async def open_and_close() -> None:
        async with Runtime(path, [desk]):
            pass

    asyncio.run(open_and_close())

    assert data(path) == {"path": str(path), "sessions": []}
    assert "alice" not in shown(path)
