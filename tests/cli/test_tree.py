"""Looking in from a shell, and saying what is wanted: of a store that a runtime has open, and of one nobody has."""

import asyncio
import getpass
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from looking import until

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import DoorRefused
from turnkeeper.kernel.records import NodeStarted
from turnkeeper.kernel.supervision.child import ChildSpec
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.noted import Note, verb_noted
from turnkeeper.kernel.supervision.view import Look
from turnkeeper.supervisors.knock import knock
from turnkeeper.supervisors.service import Service
from turnkeeper.supervisors.supervisor import Supervisor

pytestmark = pytest.mark.anyio
QUICK = Settings(synchronous="OFF", shutdown_s=0.02)
BORNE = Intensity(restarts_max=2, pauses_s=(0.0,))
Inside = Callable[..., Any]


@agent("echo")
async def echo(turn: Turn) -> object:
    return turn.input


async def steady() -> None:
    await asyncio.Event().wait()


async def fragile() -> None:
    raise ValueError("no")


class Feed(Service):
    """A service that says how it is."""

    def look(self) -> Look:
        return Look(mailbox_len=7, beat_age_s=3.0, progress_age_s=200.0, health="alive", pid=4242)


def children() -> list[ChildSpec]:
    shop = Supervisor([ChildSpec(name="prices", child=Feed(steady))])
    return [ChildSpec(name="fragile", child=Service(fragile)), ChildSpec(name="shop", child=shop)]


async def ran(path: Path) -> None:
    """Leave a store in which an agent has a turn waiting, paused, and a child has been put away."""
    async with Runtime(path, [echo], settings=QUICK, children=children(), intensity=BORNE) as runtime:
        await runtime.say("agents/echo", Verb.PAUSE, "a bad release", by="ann")
        await runtime.tell("s", "echo", 1, key="k")
        await until(lambda: runtime.desired("tree/fragile") is Desired.QUARANTINED)


async def put_away(path: Path, child: str) -> None:
    """Make a store in which a child that nobody gives to a runtime is quarantined."""
    store = SqliteStore(path, synchronous="OFF", store_id="s", created_at=1.0)
    await store.open()
    _, point = verb_noted(child, Desired.RUNNING, Verb.QUARANTINE, Note("it fell"), at=1.0, boot_id=1)
    assert await store.apply([[NodeStarted(1, 4242, 1.0, 2.0)], point]) == {}
    await store.close()


def told(command: Inside, *line: object) -> Any:
    done = command(*line, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def under(node: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        node = next(child for child in node["children"] if child["name"] == name)
    return node


# ---------------------------------------------------------------- looking in


async def test_a_live_tree_shows_what_everybody_does_now(inside: Inside, path: Path) -> None:
    """Mailboxes, incarnations, restarts in the window, beats and progress: as data, and as a table of paths."""
    async with Runtime(path, [echo], settings=QUICK, children=children(), intensity=BORNE) as runtime:
        await runtime.say("agents/echo", Verb.PAUSE)
        await runtime.tell("s", "echo", 1)
        await until(lambda: runtime.desired("tree/fragile") is Desired.QUARANTINED)
        found = await asyncio.to_thread(told, inside, "tree", path, "--live")
        shown = await asyncio.to_thread(inside, "tree", path, "--live")

    tree, looked = found["tree"], {"mailbox_len": 7, "beat_age_s": 3.0, "progress_age_s": 200.0, "pid": 4242}
    waiting, fell = under(tree, "agents", "echo"), under(tree, "tree", "fragile")
    assert (found["db"], found["live"], tree["incarnation"]) == (str(path), True, 1)
    assert (waiting["desired"], waiting["look"]["mailbox_len"], waiting["look"]["running"]) == ("paused", 1, 0)
    assert (fell["desired"], fell["incarnation"], fell["restarts"], fell["why"]) == ("quarantined", 3, 2, "crashed")
    assert under(tree, "tree", "shop", "prices")["look"].items() >= looked.items()
    assert "live" in shown.stdout
    assert "agents/echo  agent, paused, mailbox: 1, running: 0\n" in shown.stdout
    assert "idle, to be quarantined, incarnation 3, restarts in its window: 2, last end: crashed\n" in shown.stdout
    assert "mailbox: 7, last beat 3.0 s ago, last progress 3 min ago, alive, pid 4242\n" in shown.stdout


async def test_a_stored_tree_says_the_same_while_a_runtime_runs_and_after_it(inside: Inside, path: Path) -> None:
    """Agents with their live turns, what is wanted and who said so, and what was last noted of children."""
    async with Runtime(path, [echo], settings=QUICK, children=children(), intensity=BORNE) as runtime:
        await runtime.say("agents/echo", Verb.PAUSE, "a bad release", by="ann")
        await runtime.tell("s", "echo", 1)
        await until(lambda: runtime.desired("tree/fragile") is Desired.QUARANTINED)
        during = await asyncio.to_thread(told, inside, "tree", path)
    after = await asyncio.to_thread(told, inside, "tree", path)
    shown = await asyncio.to_thread(inside, "tree", path)

    (waiting,) = during["agents"]
    assert (during["live"], during["agents"]) == (False, after["agents"])
    assert (waiting["path"], waiting["queued"], waiting["running"], waiting["suspended"]) == ("agents/echo", 1, 0, 0)
    assert (waiting["desired"], waiting["by"], waiting["reason"]) == ("paused", "ann", "a bad release")
    noted = {one["path"]: one for one in during["children"]}
    fell, sturdy = noted["tree/fragile"], noted["tree/shop/prices"]
    assert (fell["noted"], fell["incarnation"], fell["restarts"]) == ("crashed", 3, 2)
    assert (fell["why"], fell["desired"], fell["by"]) == ("crashed: ValueError", "quarantined", "tree")
    assert (sturdy["noted"], sturdy["incarnation"], sturdy["desired"]) == ("started", 1, "running")
    assert sturdy["since"] is None
    assert {one["path"]: one["noted"] for one in after["children"]}["tree/shop/prices"] == "ended"
    assert "as stored" in shown.stdout
    assert "ms ago" in shown.stdout or " s ago" in shown.stdout


async def test_of_very_many_children_the_first_are_shown_and_the_others_counted(inside: Inside, path: Path) -> None:
    """So that the answer fits a line of the door, however long their names are."""
    many = [ChildSpec(name=f"{number:0>700}", child=Service(steady)) for number in range(1_000)]
    async with Runtime(path, [echo], settings=QUICK, children=many):
        found = await asyncio.to_thread(told, inside, "tree", path, "--live")
        shown = await asyncio.to_thread(inside, "tree", path, "--live")

    tree = under(found["tree"], "tree")
    assert (len(tree["children"]), tree["left_out"]) == (500, 500)
    assert tree["children"][0]["name"] == "0" * 700
    assert f"tree/{'0' * 700}  service, running, incarnation 1\n" in shown.stdout  # folded nowhere but in a terminal
    assert "... 500 more" in shown.stdout


async def test_events_say_who_said_what_and_who_fell(inside: Inside, path: Path) -> None:
    """Of all or of one path, the newest last; of many, the newest."""
    await ran(path)
    events = await asyncio.to_thread(told, inside, "child-events", path)
    of_one = await asyncio.to_thread(told, inside, "child-events", path, "agents/echo")
    newest = await asyncio.to_thread(told, inside, "child-events", path, "--limit", 2)
    shown = await asyncio.to_thread(inside, "child-events", path, "agents/echo")

    (said,) = of_one["events"]
    assert (said["kind"], said["by"], said["reason"]) == ("paused", "ann", "a bad release")
    assert {one["kind"] for one in events["events"]} >= {"started", "crashed", "restarted", "quarantined", "paused"}
    assert newest["events"] == events["events"][-2:]
    assert all(word in shown.stdout for word in ("paused", "ann", "a bad release"))


async def test_of_what_nothing_was_noted_that_is_said(inside: Inside, path: Path) -> None:
    """In one line; a name is shown as it is, and steers nothing. For machines it is an empty list."""
    await ran(path)
    shown = await asyncio.to_thread(inside, "child-events", path, "[red]nope\x1b")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"{path} as stored: events of [red]nope\\x1b, the newest last: none\n"
    assert await asyncio.to_thread(told, inside, "child-events", path, "nope") == {"events": []}


async def test_names_that_would_steer_a_terminal_are_shown_and_do_not(inside: Inside, path: Path) -> None:
    """Live, stored and in events; for machines they are as they are."""
    hostile, mark = "a\x1b[31mb\n\u202ec", "[red]d"
    named = agent(hostile)(echo.handler)
    given = [ChildSpec(name=hostile, child=Service(steady)), ChildSpec(name=mark, child=Service(steady))]
    async with Runtime(path, [named], settings=QUICK, children=given) as runtime:
        await runtime.ask("s", hostile, 1)
        said = await asyncio.to_thread(
            inside, "pause", path, f"tree/{hostile}", "--reason", "\x1b[2J[b]x", "--by", "\x07"
        )
        live = await asyncio.to_thread(inside, "tree", path, "--live")
        plain = await asyncio.to_thread(told, inside, "tree", path, "--live")
    stored, events = inside_both(inside, path)
    names = [child["name"] for child in under(plain["tree"], "tree")["children"]]

    assert [said.returncode, live.returncode, stored.returncode, events.returncode] == [0] * 4
    printed = said.stdout + live.stdout + stored.stdout + events.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)
    assert "tree/[red]d" in live.stdout
    assert "tree/[red]d" in stored.stdout
    assert names == [hostile, mark]


def inside_both(inside: Inside, path: Path) -> tuple[Any, Any]:
    return inside("tree", path), inside("child-events", path)


async def test_a_damaged_note_is_said_in_one_line(inside: Inside, path: Path) -> None:
    """And leads to the audit."""
    await ran(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER child_events_never_change")
        connection.execute("UPDATE child_events SET detail = x'c1'")
    for line in ("tree", "child-events"):
        refused = await asyncio.to_thread(inside, line, path)

        assert refused.returncode == 2
        assert "turnkeeper audit" in refused.stderr


# ---------------------------------------------------------------- saying what is wanted


async def test_a_verb_reaches_the_runtime_and_is_recorded(command: Inside, inside: Inside, path: Path) -> None:
    """With who said it, by default the login name; said again it says so and changes nothing."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        first = await asyncio.to_thread(command, "pause", path, "agents/echo", "--reason", "a bad release")
        waiting = await runtime.tell("s", "echo", 1)
        again = await asyncio.to_thread(told, inside, "pause", path, "agents/echo", "--by", "bob")
        resumed = await asyncio.to_thread(told, inside, "resume", path, "agents/echo", "--by", "bob")
        ended = await waiting.deliverable()
        kinds = [event.kind for event in await runtime.child_events("agents/echo")]
    row = (await asyncio.to_thread(told, inside, "child-events", path))["events"][0]

    assert (first.returncode, first.stdout) == (0, "agents/echo: paused\n"), first.stderr
    assert again == {"path": "agents/echo", "desired": "paused", "changed": False}
    assert resumed == {"path": "agents/echo", "desired": "running", "changed": True}
    assert (ended.value, kinds) == (1, ["paused", "resumed"])
    assert (row["reason"], row["by"]) == ("a bad release", getpass.getuser())


async def test_what_is_said_while_nobody_runs_holds_for_the_next_runtime(inside: Inside, path: Path) -> None:
    """An agent goes on, and a child that was put away is started, though the runtime that was told had neither."""
    await ran(path)
    for line in (
        ("stop", path, "agents/echo"),
        ("resume", path, "agents/echo"),
        ("release", path, "tree/fragile"),
    ):
        done = await asyncio.to_thread(inside, *line)
        assert done.returncode == 0, done.stderr
    mended = [ChildSpec(name="fragile", child=Service(steady))]
    async with Runtime(path, [echo], settings=QUICK, children=mended) as runtime:
        assert (await runtime.ask("s", "echo", 1, key="k")).value == 1
        await runtime.ensure_running("tree/fragile")

    assert audit(path).violations == []


@pytest.mark.parametrize("child", ["processes/reviewer/1", "tree/shop/prices", "agents/gone"])
async def test_what_nobody_gives_to_a_runtime_can_be_released(inside: Inside, path: Path, child: str) -> None:
    """If something was said of it: by nobody's runtime, and by one that has other things."""
    await put_away(path, child)
    assert (await asyncio.to_thread(told, inside, "release", path, child))["desired"] == "running"
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        assert (await asyncio.to_thread(told, inside, "stop", path, child))["desired"] == "stopped"

        assert runtime.desired(child) is Desired.STOPPED
    assert audit(path).violations == []


def test_a_user_without_a_name_says_it_too(inside: Inside, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, say: then nobody stands in the event."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", nameless)
    asyncio.run(put_away(path, "tree/shop"))
    done = inside("release", path, "tree/shop")

    assert done.returncode == 0, done.stderr
    assert told(inside, "child-events", path)["events"][-1]["by"] == ""


KEEPER = """
import asyncio
from turnkeeper import Runtime, agent

@agent("echo")
async def echo(turn):
    return turn.input

async def main():
    async with Runtime("agents.db", [echo]) as runtime:
        await runtime.ask("s", "echo", 1)
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_what_was_said_is_still_wanted_after_a_kill(command: Any, inside: Inside, tmp_path: Path) -> None:
    """Its runtime is killed between two verbs; the next one is told the second."""
    db = tmp_path / "agents.db"
    for verb, wanted in (("pause", "paused"), ("stop", "stopped"), ("resume", "running")):
        keeper = command.start(line=[sys.executable, "-c", KEEPER]) if wanted != "running" else None
        if keeper is not None and wanted == "paused":
            assert keeper.stdout.readline() == "up\n"
        elif keeper is not None:
            while inside("tree", db, "--live").returncode:
                assert keeper.poll() is None
        said = told(inside, verb, db, "agents/echo")
        if keeper is not None:
            keeper.send_signal(signal.SIGKILL)
            keeper.wait()
        (found,) = told(inside, "tree", db)["agents"]

        assert (said["desired"], said["changed"], found["desired"]) == (wanted, True, wanted)
    assert audit(db).violations == []


# ---------------------------------------------------------------- what cannot be done

REFUSED = [
    (("tree", "NOTHING"), "nothing.db"),
    (("tree", "NOTHING", "--live"), "nothing.db"),
    (("tree", "NOSTORE"), "nostore.db"),
    (("child-events", "NOTHING"), "nothing.db"),
    (("child-events", "DB", "--limit", 0), "--limit"),
    (("pause", "NOTHING", "agents/echo"), "nothing.db"),
    (("pause", "NOSTORE", "agents/echo"), "nostore.db"),
    (("pause", "DB"), "PATH"),
    (("pause", "DB", "agents/nobody"), "agents/echo"),
    (("pause", "DB", "echo"), "agents/echo"),
    (("pause", "DB", "tree/nobody"), "tree/fragile"),
    (("pause", "DB", "tree"), "tree/fragile"),
    (("pause", "DB", "processes/echo/1"), "agents/echo"),
    (("pause", "DB", ""), "no child ''"),
    (("pause", "DB", "tree/\udcff"), ""),
    (("resume", "DB", "tree/fragile"), "quarantined"),
    (("release", "DB", "agents/echo"), "paused"),
]


@pytest.mark.parametrize("held", ["by a runtime", "by nobody"])
@pytest.mark.parametrize(("line", "says"), REFUSED, ids=str)
async def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    inside: Inside, left: Path, tmp_path: Path, line: tuple[Any, ...], says: str, held: str
) -> None:
    """Exit code 2, no traceback, and a word on what there is; whether a runtime has the store or not."""
    (tmp_path / "nostore.db").write_text("no store")
    words = {"DB": left, "NOTHING": tmp_path / "nothing.db", "NOSTORE": tmp_path / "nostore.db"}
    words_of = [words.get(str(word), word) for word in line]
    if held == "by a runtime":
        async with Runtime(left, [echo], settings=QUICK, children=children(), intensity=BORNE):
            refused = await asyncio.to_thread(inside, *words_of)
    else:
        refused = await asyncio.to_thread(inside, *words_of)
    after = (await asyncio.to_thread(told, inside, "tree", left))["children"]

    assert (refused.returncode, refused.stdout) == (2, "")
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {one["path"]: one["desired"] for one in after}["tree/fragile"] == "quarantined"
    assert not (tmp_path / "nothing.db").exists()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `ran` leaves it."""
    db = tmp_path_factory.mktemp("ran") / "agents.db"
    asyncio.run(ran(db))
    return db


@pytest.fixture
def left(template: Path, path: Path) -> Path:
    """A store as `ran` leaves it; the test's own."""
    shutil.copyfile(template, path)
    return path


async def test_a_live_tree_of_a_store_that_nobody_has_is_refused(inside: Inside, path: Path) -> None:
    """What the store keeps is not what a runtime does: it must be asked for."""
    await ran(path)
    refused = await asyncio.to_thread(inside, "tree", path, "--live")

    assert refused.returncode == 2
    assert "none has the store open" in refused.stderr


async def test_of_a_runtime_that_closes_that_is_said(inside: Inside, path: Path) -> None:
    """Its door is shut, and its store is not free yet: neither is nobody there, nor is another runtime to be sought."""
    released, lines = asyncio.Event(), (("pause", path, "agents/echo"), ("tree", path, "--live"))

    async def slow() -> None:
        try:
            await steady()
        finally:
            await released.wait()

    slowly = [ChildSpec(name="slow", child=Service(slow), shutdown_s=60)]
    async with Runtime(path, [echo], settings=QUICK, children=slowly) as runtime:
        closing = asyncio.create_task(runtime.aclose())
        await until(lambda: not path.with_name(f"{path.name}.door").exists())
        pause, tree = [await asyncio.to_thread(inside, *line) for line in lines]
        released.set()
        await closing

    for refused in (pause, tree):
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "is closing or not answering" in refused.stderr
    assert f"process {os.getpid()} has the store open" in pause.stderr


@pytest.mark.parametrize("fields", [{"path": "agents/echo", "word": "dance"}, {"word": "pause"}, {"path": 7}])
async def test_the_door_refuses_what_is_no_verb(path: Path, fields: dict[str, object]) -> None:
    """Whatever program knocks."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        with pytest.raises(DoorRefused, match="ContractViolation"):
            await asyncio.to_thread(knock, path, "say", fields)

        assert runtime.desired("agents/echo") is Desired.RUNNING
