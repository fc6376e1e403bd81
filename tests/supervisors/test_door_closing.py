"""The door's place beside its store, and what is left of it when it closes, or its process dies."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from callers import VERBS, Gate, ask, caller, events, line, opened, place, serving
from looking import passed, until

from turnkeeper.kernel.errors import DoorClosed, DoorSilent
from turnkeeper.supervisors import door as door_module
from turnkeeper.supervisors import knock as knock_module
from turnkeeper.supervisors.door import Door
from turnkeeper.supervisors.knock import knock

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux's way")


@pytest.fixture
def store(path: Path) -> Path:
    """A store's file, there already."""
    path.touch()
    return path


# ---------------------------------------------------------------- where it stands


def leave_socket(at: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(at))


async def test_a_socket_that_a_dead_process_left_is_replaced(path: Path) -> None:
    """Until then it says that nobody is there."""
    leave_socket(place(path))
    with pytest.raises(DoorClosed, match="none has the store open"):
        await ask(path, "echo")

    async with opened(path):
        assert await ask(path, "echo") == {}


def stand_folder(at: Path) -> None:
    at.mkdir()


def stand_file(at: Path) -> None:
    at.write_text("precious")


def stand_dangling_link(at: Path) -> None:
    at.symlink_to(at.with_name("nowhere"))


def stand_link_to_a_socket(at: Path) -> None:
    leave_socket(at.with_name("other"))
    at.symlink_to(at.with_name("other"))


@pytest.mark.parametrize("stand", [stand_folder, stand_file, stand_dangling_link, stand_link_to_a_socket])
async def test_what_stands_in_its_place_and_is_no_socket_stays(
    path: Path, caplog: pytest.LogCaptureFixture, stand: Callable[[Path], None]
) -> None:
    """There is no door then, and the log says so; the runtime goes on without."""
    stand(place(path))
    before = place(path).lstat()
    door = Door(path, VERBS)

    assert not await door.open()
    await door.close()
    after = place(path).lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    (record,) = caplog.records
    assert record.event == "door.unavailable"
    assert record.fields == {"path": str(place(path)), "reason": "something that is no socket stands there"}
    with pytest.raises(DoorClosed):
        await ask(path, "echo")


@pytest.mark.parametrize("name", ["missing/agents.db", "x" * 254, "nul\0.db"])
async def test_where_there_can_be_no_socket_there_is_no_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Whatever the file system refuses: opening says so, and raises nothing."""
    assert not await Door(tmp_path / name, VERBS).open()

    assert events(caplog) == ["door.unavailable"]


def descriptors() -> int:
    """Return how many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@ON_LINUX
@pytest.mark.parametrize("length", [90, 100, 103, 104, 107, 108, 300, 2_000])
async def test_a_path_longer_than_a_socket_address_is_no_hindrance(tmp_path: Path, length: int) -> None:
    """Both sides go through the opened folder, and leave no descriptor open."""
    folder = tmp_path
    while (missing := length - len(os.fsencode(place(folder / "agents.db")))) > 1:
        folder /= "d" * min(missing - 1, 200)
        folder.mkdir()
    before = descriptors()

    async with opened(folder / "agents.db"):
        assert await ask(folder / "agents.db", "echo", n=1) == {"n": 1}

    assert descriptors() <= before + 1  # the thread that asked may have brought one


@ON_LINUX
async def test_a_name_longer_than_a_socket_address_has_no_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder can be shortened, the name cannot; whoever asks hears that there is none."""
    store = tmp_path / ("x" * 200)

    assert not await Door(store, VERBS).open()
    assert events(caplog) == ["door.unavailable"]
    with pytest.raises(DoorClosed, match="too long"):
        await ask(store, "echo")


async def test_where_open_folders_have_no_short_names_a_long_path_has_no_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on macOS: said in words, on both sides."""
    monkeypatch.setattr(knock_module, "_OPEN_FOLDERS", str(tmp_path / "none"))
    (tmp_path / ("d" * 200)).mkdir()
    store = tmp_path / ("d" * 200) / "agents.db"

    assert not await Door(store, VERBS).open()
    assert caplog.records[0].fields["reason"] == "the path is too long for a socket's address"
    with pytest.raises(DoorClosed, match="too long for a socket's address"):
        await ask(store, "echo")


async def test_two_names_of_a_store_have_one_door(store: Path) -> None:
    """As they have one owner lock."""
    link = store.with_name("link.db")
    link.symlink_to(store)

    async with opened(store):
        assert await ask(link, "echo", n=1) == {"n": 1}


# ---------------------------------------------------------------- closing


async def test_a_closed_door_leaves_nothing_and_can_be_opened_again(path: Path) -> None:
    """Closing twice is closing once, and closing what never opened is nothing."""
    door = Door(path, VERBS)
    await door.close()
    for _ in range(2):
        assert await door.open()
        assert await ask(path, "echo") == {}
        await door.close()
        await door.close()

        assert not place(path).exists()
        with pytest.raises(DoorClosed, match="none has the store open"):
            await ask(path, "echo")


async def test_a_request_under_way_is_answered_while_the_door_closes(path: Path) -> None:
    """It lets nobody in meanwhile, and an idle connection ends at once."""
    gate = Gate()
    door = Door(path, {**VERBS, "gate": gate})
    await door.open()
    async with caller(path) as idle, caller(path) as busy:
        await idle.say(line("echo"))
        assert await idle.hear() == {"ok": {}}
        await busy.say(line("gate") + line("gate"))
        await until(lambda: gate.inside)
        closing = asyncio.create_task(door.close())

        assert await idle.hear() is None
        with pytest.raises(DoorClosed):
            await ask(path, "gate")
        assert not closing.done()
        gate.opened.set()
        await closing
        assert await busy.hear() == {"ok": "through"}
        assert await busy.hear() is None  # the second request was heard by nobody
    assert not serving()


async def test_a_request_that_takes_too_long_is_given_up_when_the_door_closes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller hears that nobody knows whether it was done."""
    monkeypatch.setattr(door_module, "_LAST_ANSWERS_S", 0.02)
    gate = Gate()
    door = Door(path, {"gate": gate})
    await door.open()
    asked = asyncio.create_task(ask(path, "gate"))
    await until(lambda: gate.inside)

    await door.close()
    assert (gate.inside, gate.ended) == (0, 1)
    assert not serving()
    with pytest.raises(DoorSilent, match="closed before it had answered"):
        await asked


async def test_a_verb_that_will_not_stop_does_not_hold_up_closing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log; its caller is answered late."""
    monkeypatch.setattr(door_module, "_LAST_ANSWERS_S", 0.02)
    gate = Gate()

    async def deaf(fields: Mapping[str, Any]) -> str:
        try:
            return await gate(fields)
        except asyncio.CancelledError:
            await gate.opened.wait()
            return "late"

    door = Door(path, {"deaf": deaf})
    await door.open()
    asked = asyncio.create_task(ask(path, "deaf"))
    await until(lambda: gate.inside)
    await door.close()

    assert events(caplog) == ["door.verb_would_not_stop"]
    gate.opened.set()
    assert await asked == "late"
    await until(lambda: not serving())


async def test_cancelling_the_closing_ends_the_connections_all_the_same(path: Path) -> None:
    """Nothing is left running by a shutdown that loses its patience."""
    gate = Gate()
    door = Door(path, {"gate": gate})
    await door.open()
    async with caller(path) as guest:
        await guest.say(line("gate"))
        await until(lambda: gate.inside)
        closing = asyncio.create_task(door.close())
        await until(lambda: not place(path).exists())
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

        await until(lambda: not serving())
        assert await guest.hear() is None


async def test_a_file_that_took_the_sockets_place_stays(path: Path) -> None:
    """Only what is still this door's is removed."""
    door = Door(path, VERBS)
    await door.open()
    place(path).unlink()
    place(path).write_text("precious")
    await door.close()

    assert place(path).read_text() == "precious"


async def test_a_connection_that_nobody_has_let_in_yet_ends_with_the_door(path: Path) -> None:
    """A caller in the queue is not left waiting."""
    door = Door(path, VERBS)
    await door.open()
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(place(path)))  # and the loop has had no time to notice
        await door.close()
        early.settimeout(10)
        try:
            said = early.recv(1)
        except ConnectionResetError:
            said = b""

    assert said == b""


async def test_running_out_of_descriptors_is_waited_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One try and one line a while, not a loop that spins; then the caller is let in."""
    monkeypatch.setattr(door_module, "_AGAIN_S", 0.05)
    accept, scarce, tries = socket.socket.accept, True, 0

    def accept_or_not(self: socket.socket) -> Any:
        nonlocal tries
        tries += 1
        if scarce:
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_or_not)
    async with opened(path):
        asked = asyncio.create_task(ask(path, "echo"))
        await until(lambda: tries)
        await passed(0.2)
        scarce = False
        assert await asked == {}

    assert 2 <= len(events(caplog)) <= 6
    assert set(events(caplog)) == {"door.cannot_accept"}


FORKS = """
import asyncio, os, sys
from pathlib import Path
from turnkeeper.supervisors.door import Door

async def wait(fields):
    print("asked", flush=True)
    await asyncio.Event().wait()

async def main():
    assert await Door(Path(sys.argv[1]), {"wait": wait}).open()
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    if os.fork() == 0:
        print("forked", flush=True)
        sys.stdin.read()  # outlives its parent, until the test ends
        os._exit(0)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_child_that_outlives_the_runtime_keeps_no_caller_waiting(path: Path) -> None:
    """A fork copies the sockets; with the parent dead they would take requests that nobody answers."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(1) as threads,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            asked = threads.submit(knock, path, "wait", {}, timeout_s=20)
            assert process.stdout.readline() == "asked\n"
            process.stdin.write("fork\n")
            process.stdin.flush()
            assert process.stdout.readline() == "forked\n"
            process.kill()
            process.wait()

            began = time.monotonic()
            with pytest.raises(DoorSilent):
                asked.result()
            with pytest.raises(DoorClosed):
                knock(path, "wait", {}, timeout_s=20)
            assert time.monotonic() - began < 10
            assert place(path).exists()  # as after any kill; the next runtime replaces it
        finally:
            process.kill()
            process.stdin.close()
