"""Answering from a shell: on a store that a runtime has open, through its door, and on one that nobody has."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from looking import check_invariants, rows, until

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.cli import operate
from turnkeeper.kernel.errors import ApprovalDenied

FAST = Settings(shutdown_s=0.02, suspend_s=0.01, retries_max=0)
GOLDEN = Path(__file__).parents[1] / "golden" / "schema-3.db"


@agent("desk")
async def desk(turn: Turn) -> Any:
    """Ask for what the message says."""
    match turn.input:
        case "approval":
            try:
                return (await turn.approval("refund W1", {"cents": 500}, who=["anna", "bob"])).by
            except ApprovalDenied as error:
                return f"no: {error.reason}"
        case "escalation":
            return await turn.escalate(reason="angry", summary="wrong book", goal="call back")
        case "signal":
            return await turn.signal("paid")
        case _:
            return await turn.sleep(3_600)


async def suspended(running: Runtime, *wanted: str) -> None:
    """Have a turn of each kind that waits, in a session of its name, under a key of its name."""
    for kind in wanted:
        await running.tell(kind, "desk", kind, key=kind)
    await until(lambda: running.statistics().suspended == len(wanted))


def listed(command: Any, path: Path, *options: object) -> list[dict[str, Any]]:
    return json.loads(command("approvals", path, *options, "--json").stdout)["approvals"]


ANSWERS = [
    ("approval", ("approve", "DB", "TOKEN", "--by", "anna", "--digest", "DIGEST"), "anna"),
    ("approval", ("deny", "DB", "TOKEN", "--by", "bob", "--reason", "too much"), "no: too much"),
    ("escalation", ("answer", "DB", "TOKEN", "--value", '{"called": [1, null]}'), {"called": [1, None]}),
    ("signal", ("signal", "DB", "signal", "desk", "paid", "--payload", "5", "--key", "p"), 5),
    ("sleep", ("cancel", "DB", 1, "--reason", "enough", "--by", "anna"), "Cancelled: by anna; enough"),
]


def filled_in(line: tuple[object, ...], path: Path, questions: list[dict[str, Any]]) -> list[object]:
    (question,) = questions or [{"token": "none", "digest": ""}]
    words = {"DB": path, "TOKEN": question["token"], "DIGEST": question["digest"]}
    return [words.get(str(word), word) for word in line]


@pytest.mark.parametrize("open_", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize(("kind", "line", "comes_to"), ANSWERS, ids=lambda value: str(value)[:20])
async def test_a_turn_is_told_something(
    command: Any, path: Path, open_: bool, kind: str, line: tuple[object, ...], comes_to: object
) -> None:
    """Through the runtime that has the store open, or on the store itself, where the next runtime goes on with it."""
    async with Runtime(path, [desk], settings=FAST) as running:
        await suspended(running, kind)
        if open_:
            words = filled_in(line, path, await asyncio.to_thread(listed, command, path))
            told = await asyncio.to_thread(command, *words, "--json")
            ended = await running.ask(kind, "desk", kind, key=kind)
    if not open_:
        words = filled_in(line, path, listed(command, path))
        told = command(*words, "--json")
        async with Runtime(path, [desk], settings=FAST) as running:
            ended = await running.ask(kind, "desk", kind, key=kind)
    again = command(*words)

    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)
    assert (ended.value if ended.failure is None else f"{ended.failure.type}: {ended.failure.message}") == comes_to
    assert again.returncode == (0 if kind in {"signal", "sleep"} else 2), again.stderr
    assert "Traceback" not in again.stderr
    check_invariants(path)
    assert audit(path).violations == []


async def test_what_is_asked_is_listed_with_the_commands_that_answer_it(command: Any, path: Path) -> None:
    """For people, and for machines: in the order of the turns, by session, in pages."""
    async with Runtime(path, [desk], settings=FAST) as running:
        await suspended(running, "approval", "sleep", "escalation")
        found = await asyncio.to_thread(listed, command, path)
        assert await running.approvals() != []
    said = command("approvals", path).stdout
    first, second = found

    assert listed(command, path) == found
    assert [one["kind"] for one in found] == ["approval", "escalation"]
    assert (first["subject"], first["who"]) == ({"cents": 500}, ["anna", "bob"])
    assert f"turnkeeper approve {path} {first['token']} --digest {first['digest']}" in said
    assert f"turnkeeper answer {path} {second['token']} --value JSON" in said
    assert listed(command, path, "--session", "escalation") == [second]
    assert listed(command, path, "--session", "escalation", "--tenant", "acme") == []
    assert listed(command, path, "--tenant", "acme") == []
    assert "2 questions to people, of all tenants" in said
    assert f"or turnkeeper deny {path} {first['token']}" in said
    assert listed(command, path, "--limit", 1) == [first]
    assert listed(command, path, "--after", first["token"]) == [second]


async def test_a_suspended_turn_is_explained_by_what_it_stands_on(command: Any, path: Path) -> None:
    """Kind, since when, until when, who may answer, and how; a wait is no pure step that was never called."""
    async with Runtime(path, [desk], settings=FAST) as running:
        await suspended(running, "approval", "signal")
    (question,) = listed(command, path)
    explained = command("explain", path, 1).stdout
    shown = json.loads(command("show", path, "approval", 1, "--json").stdout)
    (step,) = json.loads(command("checkpoint", path, 1, "--json").stdout)["steps"]
    waits_for = json.loads(command("receipts", path, "--json").stdout)["receipts"][1]["waits_for"]

    assert "an approval of 'refund W1' by anna or bob (turn.approval[#0]), for " in explained
    assert f"turnkeeper approve {path} {question['token']} --digest {question['digest']}, or " in explained
    assert "never called" not in explained
    assert "no outcome is recorded" not in explained
    assert (shown["steps"][0]["effect"], shown["steps"][0]["status"]) == ("wait", "waiting")
    assert (step["effect"], step["status"]) == ("wait", "waiting")
    assert waits_for.startswith("the signal 'paid' (turn.signal[#0]), for ")
    assert command("deny", path, question["token"], "--by", "bob", "--reason", "no").returncode == 0
    assert "denied by bob (no)" in command("explain", path, 1).stdout
    answer = json.loads(command("checkpoint", path, 1, "--json").stdout)["steps"][0]["result"]
    assert (answer["outcome"], answer["by"], answer["reason"]) == ("denied", "bob", "no")


REFUSED: list[tuple[object, ...]] = [
    ("approve", "DB", "wrong", "--by", "anna"),
    ("approve", "DB", "", "--by", "anna"),
    ("approve", "DB", "1.0.wrong", "--by", "anna"),
    ("approve", "DB", "9" * 400 + ".0.x", "--by", "anna"),
    ("approve", "DB", "TOKEN", "--by", "carol"),
    ("approve", "DB", "TOKEN", "--by", ""),
    ("approve", "DB", "TOKEN", "--by", "anna", "--digest", "00"),
    ("approve", "DB", "TOKEN", "--by", "anna", "--digest", "no digits"),
    ("approve", "DB"),
    ("approve", "NOTHING", "TOKEN", "--by", "anna"),
    ("deny", "DB", "TOKEN", "--by", "carol"),
    ("deny", "DB", "1.7.x", "--by", "anna"),
    ("answer", "DB", "TOKEN", "--value", "1", "--by", "anna"),
    ("answer", "DB", "TOKEN", "--by", "anna"),
    ("answer", "DB", "TOKEN", "--value", "called", "--by", "anna"),
    ("answer", "DB", "TOKEN", "--value", "[" * 100_000, "--by", "anna"),
    ("signal", "DB", "approval", "nobody", "paid"),
    ("signal", "DB", "no-session", "desk", "paid"),
    ("signal", "DB", "approval", "desk", "paid", "--payload", "{"),
    ("signal", "DB", "approval", "desk", "paid", "--key", "~fresh"),
    ("signal", "DB", "", "desk", "paid"),
    ("cancel", "DB", 99),
    ("cancel", "DB", "one"),
    ("cancel", "NOTHING", 1),
    ("approvals", "NOTHING"),
    ("approvals", "DB", "--after", "nonsense"),
    ("approvals", "DB", "--limit", 0),
]


async def test_what_cannot_be_done_is_one_line_and_changes_nothing(inside: Any, path: Path, tmp_path: Path) -> None:
    """Exit code 2, no traceback; what is asked stands as it was."""
    async with Runtime(path, [desk], settings=FAST) as running:
        await suspended(running, "approval")
        (question,) = await running.approvals()
    words = {"DB": path, "TOKEN": question.token, "NOTHING": tmp_path / "nothing.db"}
    before = rows(path, "SELECT * FROM edges")
    for line in REFUSED:
        refused = await asyncio.to_thread(inside, *(words.get(str(word), word) for word in line))
        assert refused.returncode == 2, (line, refused.stdout)
        assert refused.stderr, line
        assert "Traceback" not in refused.stderr, line
    assert rows(path, "SELECT * FROM edges") == before
    assert not (tmp_path / "nothing.db").exists()
    assert audit(path).violations == []


async def test_an_answer_that_comes_too_late_is_refused(inside: Any, path: Path) -> None:
    """Nobody runs its agent, so nothing has ended it; it is over all the same, and not listed any more."""

    @agent("desk")
    async def hurried(turn: Turn) -> None:
        await turn.approval("quick", timeout_s=0.05)

    async with Runtime(path, [hurried], settings=FAST) as running:
        await running.tell("s", "desk", None)
        while not (found := await running.approvals()):  # noqa: ASYNC110 - rows set no event
            await asyncio.sleep(0.001)
        await until(lambda: running.statistics().suspended)
    await until(lambda: time.time() > found[0].due_at)
    late = await asyncio.to_thread(inside, "approve", path, found[0].token)

    assert (late.returncode, "Traceback" in late.stderr) == (2, False)
    assert "its time is over" in late.stderr or "was answered, or is over" in late.stderr
    assert listed(inside, path) == []


async def test_people_who_answer_at_one_moment_are_all_heard(path: Path) -> None:
    """Nobody has the store open: each command opens it for its own, one after another, and says nothing else."""
    async with Runtime(path, [desk], settings=FAST) as running:
        for session in range(6):
            await running.tell(f"s{session}", "desk", "approval")
        await until(lambda: running.statistics().suspended == 6)
        tokens = [question.token for question in await running.approvals()]
    command = [sys.executable, "-m", "turnkeeper", "approve", path, "--by", "anna"]
    at_once = [
        await asyncio.create_subprocess_exec(*command, token, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for token in tokens
    ]
    said = [await one.communicate() for one in at_once]

    assert [one.returncode for one in at_once] == [0] * 6, said
    assert [err for _, err in said] == [b""] * 6
    assert len(rows(path, "SELECT 1 FROM edges WHERE kind = 'step_succeeded'")) == 6


@pytest.mark.parametrize("line", [("answer", "--value", "called"), ("signal", "desk", "paid", "--payload", "{")])
def test_bad_json_is_one_line(command: Any, path: Path, line: tuple[str, ...]) -> None:
    """It names the option."""
    refused = command(line[0], path, "session", *line[1:])

    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    assert line[-2] in refused.stderr


async def test_a_store_that_is_busy_is_said_to_be_so(inside: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has it open and opens no door."""
    monkeypatch.setattr(operate, "_BUSY_S", 0.05)
    async with Runtime(path, [desk], settings=FAST) as running:
        await suspended(running, "approval")
        (question,) = await running.approvals()
    store = SqliteStore(path, synchronous="OFF", store_id="unused", created_at=0.0)
    await store.open()
    try:
        busy = await asyncio.to_thread(inside, "approve", path, question.token, "--by", "anna")
        assert (await asyncio.to_thread(listed, inside, path))[0]["token"] == question.token
    finally:
        await store.close()

    assert (busy.returncode, "Traceback" in busy.stderr) == (2, False)
    assert "has the store open" in busy.stderr


def test_a_store_of_an_older_version_says_what_to_do(command: Any, path: Path) -> None:
    """Looking changes nothing; answering brings it up to date, and there is no such question in it."""
    shutil.copy(GOLDEN, path)
    looked = command("approvals", path)
    assert rows(path, "PRAGMA user_version") == [(3,)]
    answered = command("approve", path, "1.0.x", "--by", "anna")

    assert (looked.returncode, answered.returncode) == (2, 2)
    assert "brings it up to date" in looked.stderr
    assert "Traceback" not in looked.stderr + answered.stderr
    assert listed(command, path) == []
    assert len(json.loads(command("doubts", path, "--json").stdout)["doubts"]) == 1


LIFE = """
import asyncio, os, sys
from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool

@tool(effect=Effect.EFFECTFUL)
async def charge(cents: int) -> str:
    with open(sys.argv[2], "a") as file:
        file.write(f"{cents}\\n")
    return f"charged {cents}"

@agent("pay", tools=[charge])
async def pay(turn: Turn) -> str:
    ok = await turn.approval("charge", charge.proposed(turn.input))
    if sys.argv[3] == "first":
        print("approved", flush=True)
        await asyncio.sleep(60)
    return await turn.call(charge.approved(ok), turn.input) + f" for {ok.by}"

async def main():
    async with Runtime(sys.argv[1], [pay], settings=Settings(suspend_s=0.01)) as runtime:
        receipt = await runtime.tell("s", "pay", 5, key="k")
        print("told", flush=True)
        print((await receipt.deliverable()).value, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("wait", [True, False], ids=["when it goes on", "as soon as it is said"])
def test_an_approval_outlives_a_kill_before_the_next_step(command: Any, path: Path, wait: bool) -> None:
    """Said is said: the next process charges once, and asks nobody again."""
    charged = path.with_name("charged")
    first = command.start(line=[sys.executable, "-c", LIFE, path, charged, "first"])
    assert first.stdout.readline() == "told\n"
    while not (found := listed(command, path)):
        assert first.poll() is None
    approved = command("approve", path, found[0]["token"], "--by", "anna", "--digest", found[0]["digest"])
    assert approved.returncode == 0, approved.stderr
    if wait:
        assert first.stdout.readline() == "approved\n"
    first.kill()
    first.wait()
    assert audit(path).violations == []
    assert listed(command, path) == []
    again = command("approve", path, found[0]["token"], "--by", "anna")
    second = command.run([sys.executable, "-c", LIFE, path, charged, "second"])

    assert again.returncode == 2
    assert second.stdout.splitlines() == ["told", "charged 5 for anna"], second.stderr
    assert charged.read_text() == "5\n"
    assert audit(path).violations == []
