"""Envelopes: what is understood, what is refused and why, and lines out of any pieces within bounded memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from turnkeeper.kernel.envelope import (
    Answer,
    Bye,
    Call,
    Cancel,
    Did,
    Failed,
    Fault,
    Go,
    Heartbeat,
    Hello,
    Lines,
    Ping,
    Pong,
    Problem,
    Raised,
    Ready,
    Refusal,
    Refused,
    Result,
    Step,
    Take,
    TooLong,
    encoded,
    understood,
)

SAID = [
    Hello(incarnation=1, agent="a", line_bytes_max=10, silent_s=1.0),
    Take(turn=1, tenant="", session="s", key="k", attempt=1, input={"a": [1, None]}),
    Answer(turn=1, id="x", result=None),
    Go(turn=1, id=2, idempotency_key="k"),
    Failed(turn=1, id=2, error="E", message="m"),
    Refused(turn=1, id=2, error="E", message="m"),
    Problem(code="stale", message="m"),
    Cancel(turn=1),
    Ping(n=1),
    Bye(),
]


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_what_a_runtime_says_is_one_line_of_json_with_version_and_type(message: object) -> None:
    line = encoded(message)
    said = json.loads(line)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.startswith(b'{"v":1,"type":"')
    assert said["type"] == type(message).__struct_config__.tag


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"type": "ready", "incarnation": 3}, Ready(incarnation=3)),
        ({"type": "pong", "incarnation": 3, "n": 7}, Pong(incarnation=3, n=7)),
        ({"type": "heartbeat", "incarnation": 3, "progress": "half"}, Heartbeat(incarnation=3, progress="half")),
        ({"type": "call", "turn": 1, "id": "a", "tool": "t"}, Call(turn=1, id="a", tool="t")),
        ({"type": "step", "turn": 1, "id": 1, "name": "n"}, Step(turn=1, id=1, name="n")),
        ({"type": "did", "turn": 1, "id": 1, "result": [1]}, Did(turn=1, id=1, result=[1])),
        ({"type": "did", "turn": 1, "id": 1, "fault": {"error": "E"}}, Did(turn=1, id=1, fault=Fault("E"))),
        ({"type": "result", "turn": 1, "value": "v"}, Result(turn=1, value="v")),
        ({"type": "error", "turn": 1, "error": "E"}, Raised(turn=1, error="E")),
    ],
)
def test_what_a_worker_says_is_understood(line: dict, message: object) -> None:
    assert understood(json.dumps({"v": 1, **line}).encode()) == message


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"hello", Refusal.NOT_JSON),
        (b"\xff\xfe", Refusal.NOT_JSON),
        (b'{"v":1,"type":"result","turn":1,"value":"\xff"}', Refusal.NOT_JSON),
        (b'{"v":1,"type":"result","turn":1,"value":' + b"[" * 100_000, Refusal.NOT_JSON),
        (b'{"v":1,"type":"res', Refusal.NOT_JSON),
        (b"3", Refusal.UNKNOWN),
        (b"{}", Refusal.UNKNOWN),
        (b'{"type":"ready","incarnation":1}', Refusal.UNKNOWN),
        (b'{"v":true,"type":"ready","incarnation":1}', Refusal.UNKNOWN),
        (b'{"v":2,"type":"ready","incarnation":1}', Refusal.VERSION),
        (b'{"v":1,"type":"shutdown"}', Refusal.UNKNOWN),
        (b'{"v":1,"type":"ready"}', Refusal.UNKNOWN),
        (b'{"v":1,"type":"call","turn":1,"tool":"t","id":"%b"}' % (b"i" * 201), Refusal.UNKNOWN),
        (b'{"v":1,"type":"did","turn":1,"id":%d}' % (2**63), Refusal.UNKNOWN),
        (b'{"v":1,"type":"error","turn":1,"error":"E","of":"%b"}' % (b"i" * 201), Refusal.UNKNOWN),
        (b'{"v":1,"type":"ready","incarnation":"1"}', Refusal.UNKNOWN),
        (b'{"v":1,"type":"ready","incarnation":1,"more":1}', Refusal.UNKNOWN),
        (b'{"v":1,"type":"hello","incarnation":1}', Refusal.UNKNOWN),
    ],
)
def test_what_is_not_understood_is_refused_with_its_kind(line: bytes, code: Refusal) -> None:
    wrong = understood(line)

    assert isinstance(wrong, Problem)
    assert wrong.code == code
    assert 0 < len(wrong.message) <= 300


@given(some.binary())
def test_no_line_raises(line: bytes) -> None:
    assert understood(line) is not None


@given(some.lists(some.binary(min_size=0, max_size=20).filter(lambda line: b"\n" not in line)), some.data())
def test_lines_are_the_same_in_whatever_pieces_they_come(lines: list[bytes], data: some.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    taken, found, at = Lines(20), [], 0
    while at < len(text):
        size = data.draw(some.integers(1, 30))
        found += taken.feed(text[at : at + size])
        at += size

    assert found == [line.rstrip(b"\r") if line.strip() else b"" for line in lines]
    assert taken.half == 0


def test_a_line_that_is_too_long_is_given_up_once_and_the_next_is_read() -> None:
    taken = Lines(10)

    assert taken.feed(b"12345") == []
    assert taken.feed(b"6789012") == [TooLong(b"123456789012")]
    assert taken.half == 0
    assert taken.feed(b"345") == []
    assert taken.feed(b"\nnext\nhalf") == [b"next"]
    assert taken.half == 4


def test_an_endless_line_holds_no_memory_and_counts_again_and_again() -> None:
    taken = Lines(1_000)
    found = [one for _ in range(1_000) for one in taken.feed(b"x" * 100)]

    assert 90 <= len(found) <= 100
    assert taken.half == 0


def test_blank_lines_are_counted() -> None:
    assert Lines(10).feed(b"\n\r\n  \nx\n") == [b"", b"", b"", b"x"]
