"""The door: what a running runtime can be asked from outside, on real sockets, by friends and by anybody else."""

import asyncio
import json
import os
import socket
import stat
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from callers import MIB, VERBS, Gate, ask, caller, line, opened, place, serving
from looking import until

from turnkeeper.kernel.errors import ContractViolation, DoorClosed, DoorRefused, TurnNotFound
from turnkeeper.supervisors import door as door_module
from turnkeeper.supervisors import knock as knock_module
from turnkeeper.supervisors.knock import knock

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux's way")


@pytest.fixture
def store(path: Path) -> Path:
    """A store's file, there already."""
    path.touch()
    return path


# ---------------------------------------------------------------- asking


async def test_a_knock_returns_what_the_verb_returns(path: Path) -> None:
    """The verb gets every field but its own name; a value of any shape comes back, None too."""
    async with opened(path):
        assert await ask(path, "echo", deep={"a": [1, None, "ü\n"]}) == {"deep": {"a": [1, None, "ü\n"]}}
        assert await ask(path, "echo") == {}
        assert await ask(path, "nothing") is None


async def test_an_error_of_ours_arrives_with_its_name_and_its_message(path: Path) -> None:
    """What the runtime would have raised, the caller can tell apart by type."""
    async with opened(path):
        with pytest.raises(DoorRefused, match="TurnNotFound: no turn 7") as caught:
            await ask(path, "missing")

    assert (caught.value.type, caught.value.message) == ("TurnNotFound", str(TurnNotFound(7)))


async def test_a_verb_that_crashes_says_so_in_the_log_and_nowhere_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller learns no more than that; the runtime and the connection go on."""
    async with opened(path), caller(path) as guest:
        await guest.say(line("broken", secret="hunter2"))
        answer = await guest.hear()
        await guest.say(line("echo"))

        assert answer["error"] == {"type": "InternalError", "message": "the runtime could not answer; its log says why"}
        assert await guest.hear() == {"ok": {}}

    (record,) = caplog.records
    assert (record.event, record.fields) == ("door.verb_failed", {"verb": "broken"})
    assert record.exc_info[0] is ZeroDivisionError
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("value", [object(), {1: {object()}}, "\ud800"], ids=["object", "deep", "surrogate"])
async def test_a_value_that_json_cannot_hold_is_an_error_of_the_runtime(path: Path, value: object) -> None:
    """It is the verb's bug: answered neutrally, and logged."""

    async def odd(fields: Mapping[str, Any]) -> object:
        return value

    async with opened(path, {"odd": odd}):
        with pytest.raises(DoorRefused) as caught:
            await ask(path, "odd")

    assert caught.value.type == "InternalError"


async def test_an_error_message_is_cut_and_made_writable(path: Path) -> None:
    """Some messages quote values of any size, or paths that are no text."""

    async def wordy(fields: Mapping[str, Any]) -> None:
        raise ContractViolation("\udcff", "x" * MIB * 2)

    async with opened(path, {"wordy": wordy}):
        with pytest.raises(DoorRefused) as caught:
            await ask(path, "wordy")

    assert caught.value.message.startswith("?: xxx")
    assert len(caught.value.message) == 4096


async def test_an_answer_as_long_as_a_line_arrives_and_a_longer_one_is_an_error(path: Path) -> None:
    """One MiB, quotes and all."""
    room = MIB - len('{"ok":""}')

    async def speak(fields: Mapping[str, Any]) -> str:
        return "x" * fields["n"]

    async with opened(path, {"speak": speak}):
        assert len(await ask(path, "speak", n=room)) == room
        with pytest.raises(DoorRefused, match="PayloadTooLarge: the answer is 1048577 bytes"):
            await ask(path, "speak", n=room + 1)


async def test_requests_on_one_connection_are_answered_one_after_another(path: Path) -> None:
    """In their order, whether they come together or in pieces."""
    requests = b"".join(line("echo", n=n) for n in range(50))

    async with opened(path), caller(path) as guest:
        await guest.say(requests, *(bytes([byte]) for byte in line("echo", n=50)))

        assert [(await guest.hear())["ok"]["n"] for _ in range(51)] == list(range(51))


async def test_a_stream_of_requests_leaves_the_loop_to_others(path: Path) -> None:
    """However fast they come, every task has its turn between two of them."""
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened(path), caller(path) as guest:
        ticking = asyncio.create_task(tick())
        await guest.say(b"\n" * 1_000)
        for _ in range(1_000):
            await guest.hear()
        ticking.cancel()

    assert turns >= 1_000


async def test_two_callers_do_not_wait_for_each_other(path: Path) -> None:
    """One who is answered slowly holds up nobody else."""
    gate = Gate()

    async with opened(path, {**VERBS, "gate": gate}):
        slow = asyncio.create_task(ask(path, "gate"))
        await until(lambda: gate.inside)

        assert await ask(path, "echo", n=1) == {"n": 1}
        gate.opened.set()
        assert await slow == "through"


async def test_two_hundred_callers_at_once_are_all_answered_thirty_two_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds no room, not even to wait in, tries again until there is some."""
    monkeypatch.setattr(door_module, "_WAITING_MAX", 8)
    gate = Gate()
    loop = asyncio.get_running_loop()

    async with opened(path, {"gate": gate}):
        with ThreadPoolExecutor(200) as threads:
            asked = [loop.run_in_executor(threads, knock, path, "gate", {}) for _ in range(200)]
            await until(lambda: gate.inside == 32)
            gate.opened.set()
            answers = await asyncio.gather(*asked)

    assert answers == ["through"] * 200
    assert gate.inside_max == 32


# ---------------------------------------------------------------- what is not understood

MALFORMED = {
    "nothing": b"",
    "binary": bytes(byte for byte in range(256) if byte != 10),
    "NULs": b"\0" * 1000,
    "text": b"GET / HTTP/1.1",
    "text that is no UTF-8": b'{"verb": "echo", "\xff": 1}',
    "a list": b'["echo"]',
    "two objects": b'{"verb": "echo"}{"verb": "echo"}',
    "deep lists": b'{"verb": "echo", "a": ' + b"[" * 500_000,
    "deep objects": b'{"a":' * 200_000,
    "a number of a million digits": b'{"verb": "echo", "a": ' + b"9" * 1_000_000 + b"}",
    "half a surrogate": b'{"verb": "echo", "a": "\\ud800"}',
    "no verb": b'{"turn": 1}',
    "a verb nobody knows": b'{"verb": "secret-plan"}',
    "a verb that is a list": b'{"verb": ["echo"]}',
    "a verb that is null": b'{"verb": null}',
    "another name for a verb": b'{"verb": "ECHO"}',
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_line_that_is_no_request_is_refused_and_the_next_one_is_heard(
    path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A newline ends the nonsense; nothing of it is done, nothing is logged."""
    async with opened(path), caller(path) as guest:
        await guest.say(MALFORMED[what] + b"\n")
        answer = await guest.hear()
        await guest.say(line("echo"))

        assert answer["error"]["type"] == "ContractViolation"
        assert len(answer["error"]["message"]) < 200
        assert await guest.hear() == {"ok": {}}
    assert not caplog.records


async def test_a_line_of_one_mib_is_heard_and_one_byte_more_is_not(path: Path) -> None:
    """After a line that is too long nobody knows where the next begins: the connection ends."""
    padding = b" " * (MIB - len(line("echo")) + 1)

    async with opened(path):
        async with caller(path) as guest:
            await guest.say(padding + line("echo"))
            assert await guest.hear() == {"ok": {}}
        async with caller(path) as guest:
            await guest.say(b" " + padding + line("echo"))
            assert "longer than 1048576 bytes" in (await guest.hear())["error"]["message"]


async def test_a_line_without_end_is_cut_off_at_the_limit(path: Path) -> None:
    """Ten MiB are never held; the one who sends them still hears why it ended."""
    async with opened(path):
        with socket.socket(socket.AF_UNIX) as endless:

            def send() -> bytes:
                endless.settimeout(10)
                endless.connect(str(place(path)))
                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    endless.sendall(b"x" * 10 * MIB)
                return endless.recv(MIB)

            answer = json.loads(await asyncio.to_thread(send))

    assert "longer than" in answer["error"]["message"]


async def test_half_a_request_and_then_silence_is_refused_after_a_while(path: Path) -> None:
    """The time is for the whole line: sending on byte by byte gains none."""
    async with opened(path, patience_s=0.05), caller(path) as still, caller(path) as dripping:

        async def drip() -> None:
            while True:
                await dripping.say(b" ")
                await asyncio.sleep(0.005)

        drops = asyncio.create_task(drip())
        await still.say(b'{"verb": "ec')
        answers = [await still.hear(), await dripping.hear()]
        drops.cancel()
        await asyncio.gather(drops, return_exceptions=True)

        assert await still.hear() is None
    assert {answer["error"]["message"] for answer in answers} == {"the request: did not come whole within 0.05 s"}


async def test_who_says_nothing_is_let_go_without_a_word(path: Path) -> None:
    """Before the first request and between two: an answer nobody asked for would be taken for the next one's."""
    async with opened(path, patience_s=0.05), caller(path) as silent, caller(path) as done:
        await done.say(line("echo"))
        assert await done.hear() == {"ok": {}}

        assert await done.hear() is None
        assert await silent.hear() is None


async def test_a_request_cut_off_by_the_end_is_refused(path: Path) -> None:
    """It has no newline, so nobody knows whether it was whole."""
    async with opened(path), caller(path) as guest:
        await guest.say(line("echo").rstrip())
        guest.say_no_more()

        assert (await guest.hear())["error"]["message"] == "the request: ended without a newline"
        assert await guest.hear() is None


async def test_who_does_not_take_the_answer_is_let_go(path: Path) -> None:
    """A caller that sends and never reads holds a place for as long as the patience lasts."""

    async def speak(fields: Mapping[str, Any]) -> str:
        return "x" * (MIB - 100)

    async with opened(path, {"speak": speak}, patience_s=0.05):
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(place(path)))
            deaf.sendall(line("speak"))
            await until(serving)
            await until(lambda: not serving())


async def test_a_verb_goes_on_when_its_caller_goes_away(path: Path) -> None:
    """What was begun is ended: going away is no way to leave it half done."""
    gate = Gate()

    async with opened(path, {"gate": gate}):
        async with caller(path) as guest:
            await guest.say(line("gate"))
            await until(lambda: gate.inside)
        gate.opened.set()
        await until(lambda: not serving())

    assert gate.ended == 1


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
async def test_the_socket_is_its_owners_alone(path: Path, umask: int) -> None:
    """Mode 0600, whatever the process's mask."""
    before = os.umask(umask)
    try:
        async with opened(path):
            found = place(path).lstat().st_mode
    finally:
        os.umask(before)

    assert (stat.S_ISSOCK(found), stat.S_IMODE(found)) == (True, 0o600)


@ON_LINUX
async def test_the_socket_is_its_owners_alone_from_the_first_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is born so: there is no moment between its making and its mode."""
    modes = []
    bind = socket.socket.bind

    def watched(self: socket.socket, address: str) -> None:
        bind(self, address)
        modes.append(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(socket.socket, "bind", watched)
    before = os.umask(0)
    try:
        async with opened(path):
            pass
    finally:
        os.umask(before)

    assert modes == [0o600]


@ON_LINUX
def test_whose_process_is_at_the_other_end_is_known() -> None:
    """The kernel says it; nobody can say otherwise."""
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert knock_module.peer(here) == os.geteuid()


@pytest.mark.parametrize("uid", [0, None, os.geteuid()])
async def test_the_owner_and_root_are_served(path: Path, monkeypatch: pytest.MonkeyPatch, uid: int | None) -> None:
    """And where the system does not tell who it is, whoever the file's mode lets in."""
    monkeypatch.setattr(door_module, "peer", lambda connection: uid)

    async with opened(path):
        assert await ask(path, "echo") == {}


async def test_anybody_else_is_shown_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, before a word is read."""
    monkeypatch.setattr(door_module, "peer", lambda connection: 4_000_000_000)

    async with opened(path, patience_s=3_600), caller(path) as guest:
        assert await guest.hear() is None

    (record,) = caplog.records
    assert (record.event, record.fields) == ("door.stranger", {"uid": 4_000_000_000})


async def test_nothing_is_told_to_a_door_that_another_user_has_opened(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder others may write to, anybody could stand there; the store's owner may."""
    asked = []

    async def listen(fields: Mapping[str, Any]) -> None:
        asked.append(fields)

    async with opened(store, {"listen": listen}):
        monkeypatch.setattr(knock_module, "peer", lambda connection: 4_000_000_000)
        with pytest.raises(DoorClosed, match=r"another user \(4000000000\)"):
            await ask(store, "listen")
        if os.geteuid() == 0:
            os.chown(store, 1_234, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
        monkeypatch.setattr(knock_module, "peer", lambda connection: store.stat().st_uid)
        monkeypatch.setattr(door_module, "peer", lambda connection: 0)
        await ask(store, "listen", n=1)

    assert asked == [{"n": 1}]
