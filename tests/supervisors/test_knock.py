"""The caller's side of the door: what a program hears that asks a runtime, or asks where none is."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from callers import MIB, place

from turnkeeper.kernel.errors import ContractViolation, DoorClosed, DoorRefused, DoorSilent, PayloadTooLarge
from turnkeeper.supervisors.knock import knock


def answering(store: Path, answer: bytes, *, then_close: bool = True) -> Callable[[], object]:
    """Stand at the store's door as no runtime does: say this to the first caller."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place(store)))
    listening.listen()

    def serve() -> None:
        with listening:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(MIB)
                try:
                    connection.sendall(answer)
                    while not then_close and connection.recv(MIB):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass

    return serve


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed before it had answered"),
        (b'{"ok": 1}', "closed before it had answered"),
        (b"\xff\n", "malformed"),
        (b'{"ok": ' + b"[" * 100_000 + b"\n", "recursion"),
        (b"{}\n", "neither a value nor an error"),
        (b'{"error": 7}\n', "Expected"),
        (b"x" * 2 * MIB + b"\n", "too long"),
    ],
    ids=["nothing", "half", "binary", "deep", "neither", "no error", "huge"],
)
def test_an_answer_that_is_none_leaves_the_caller_in_doubt(path: Path, answer: bytes, reason: str) -> None:
    """It was asked, so it may have been done: not the same as a door that is closed."""
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(answering(path, answer))
        with pytest.raises(DoorSilent, match=reason):
            knock(path, "echo", {}, timeout_s=10)
        serving.result()


def test_an_answer_to_half_a_request_is_heard(path: Path) -> None:
    """Who closes before the request was whole may have said why."""
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(answering(path, b'{"error": {"type": "ContractViolation", "message": "no"}}\n'))
        with pytest.raises(DoorRefused, match="ContractViolation: no"):
            knock(path, "echo", {"value": "x" * (MIB - 100)}, timeout_s=10)
        serving.result()


def test_an_answer_that_does_not_come_in_time_leaves_the_caller_in_doubt(path: Path) -> None:
    """The time is for everything together."""
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(answering(path, b'{"ok"', then_close=False))
        with pytest.raises(DoorSilent, match="timed out"):
            knock(path, "echo", {}, timeout_s=0.2)
        serving.result()


def test_a_door_that_has_no_room_in_time_is_closed(path: Path) -> None:
    """Nothing was asked, so nothing was done."""
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(place(path)))
        full.listen(0)
        first.connect(str(place(path)))
        with pytest.raises(DoorClosed):
            knock(path, "echo", {}, timeout_s=0.05)


def test_where_there_is_no_store_there_is_no_door(path: Path) -> None:
    """It says what to do about it."""
    with pytest.raises(DoorClosed, match="no runtime can be asked here: none has the store open"):
        knock(path, "echo", {})


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"verb": "fork"}, ContractViolation),
        ({"value": object()}, ContractViolation),
        ({"value": "\ud800"}, ContractViolation),
        ({"value": "x" * MIB}, PayloadTooLarge),
    ],
    ids=["a second verb", "no JSON", "half a surrogate", "too long"],
)
def test_what_cannot_be_sent_is_refused_before_anybody_is_asked(
    path: Path, fields: dict[str, object], error: type[Exception]
) -> None:
    """Whether or not somebody is there."""
    with pytest.raises(error):
        knock(path, "echo", fields)
