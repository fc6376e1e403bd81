"""Recorded conversations: how they are cut into deliveries, and what is refused, by file and line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnkeeper.cli.conversations import (
    LINE_BYTES_MAX,
    BadInput,
    Call,
    Conversation,
    Delivery,
    Reply,
    read_conversations,
)
from turnkeeper.cli.replay import TO_PEOPLE, reads
from turnkeeper.kernel.settings import Settings

Write = Callable[..., Path]
LIMIT = Settings().payload_bytes_max


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def calls(*names_by_id: tuple[str, str], arguments: str = "{}", content: str | None = None) -> dict[str, Any]:
    made = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name in names_by_id
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": "named by its call", "content": content}


def recorded_as(*messages: Any, conversation_id: Any = "c") -> dict[str, Any]:
    return {"conversation_id": conversation_id, "messages": list(messages)}


def cut(write: Write, *messages: Any) -> list[Delivery]:
    """Return the deliveries of one conversation with these messages."""
    (conversation,) = read_conversations([write(recorded_as(*messages))], LIMIT)
    return conversation.deliveries


def refusal(files: list[Path], limit: int = LIMIT) -> str:
    with pytest.raises(BadInput) as refused:
        read_conversations(files, limit)
    return str(refused.value)


# ---------------------------------------------------------------- how a conversation becomes work


def test_the_conversation_is_the_session(write: Write) -> None:
    """A conversation's id is kept as it is, for it names the session; the order is the file's."""
    file = write(recorded_as(conversation_id="b"), b"\n", recorded_as(conversation_id="a b/c"), b"  \n")

    assert read_conversations([file], LIMIT) == [Conversation("b", []), Conversation("a b/c", [])]


def test_each_user_message_is_one_delivery_under_a_key_of_its_own(write: Write) -> None:
    """A key says conversation and place, so the same words twice are two deliveries."""
    deliveries = cut(write, user("yes"), says("sure?"), user("yes"), says("done"))

    assert deliveries == [Delivery("c:0", "yes", [Reply("sure?")]), Delivery("c:2", "yes", [Reply("done")])]


def test_a_key_stays_when_more_is_recorded_later(write: Write) -> None:
    """A conversation that has grown has its old deliveries under their old keys."""
    before = [user("a"), says("b"), user("c"), says("d")]
    short, long = cut(write, *before), cut(write, *before, user("e"), says("f"))

    assert long[:2] == short
    assert long[2].key == "c:4"


def test_everything_up_to_the_next_plain_reply_belongs_to_the_delivery(write: Write) -> None:
    """Model steps and tool calls are a turn's acts, in the order in which they were recorded."""
    deliveries = cut(
        write,
        user("book it"),
        calls(("1", "find"), arguments='{"a": 1}'),
        result("1", "found"),
        calls(("2", "book"), arguments='{"b": 2}'),
        result("2", "booked"),
        says("done"),
        user("thanks"),
        says("bye"),
    )

    assert deliveries[0].acts == [Call("find", '{"a": 1}', "found"), Call("book", '{"b": 2}', "booked"), Reply("done")]
    assert deliveries[1].acts == [Reply("bye")]


def test_the_plain_reply_is_the_deliverable(write: Write) -> None:
    """What the assistant says last is what the turn delivers."""
    (delivery,) = cut(write, user("hi"), calls(("1", "get")), result("1", "found"), says("here it is"))

    assert delivery.answer == "here it is"


def test_a_turn_that_ends_in_a_tool_result_delivers_that_result(write: Write) -> None:
    """An escalation has no reply after it; its result stands for one."""
    (delivery,) = cut(write, user("a human, please"), calls(("1", "transfer_to_human_agents")), result("1", "moved"))

    assert delivery.answer == "moved"


def test_a_user_message_after_which_nothing_is_recorded_is_no_delivery(write: Write) -> None:
    """The last word of a conversation, when nobody answered it, only closes it."""
    deliveries = cut(write, user("hi"), says("hello"), user("###STOP###"))

    assert [delivery.text for delivery in deliveries] == ["hi"]
    assert cut(write, user("hello?")) == []


def test_user_messages_in_a_row_are_a_delivery_each(write: Write) -> None:
    """What was not answered on its own is delivered all the same; the answer is the last one's."""
    first, second = cut(write, user("hi"), user("are you there?"), says("yes"))

    assert (first.text, first.acts, first.answer) == ("hi", [], None)
    assert (second.text, second.answer) == ("are you there?", "yes")


def test_replies_in_a_row_are_one_turn(write: Write) -> None:
    """Without a new user message there is no new delivery."""
    (delivery,) = cut(write, user("hi"), says("one moment"), says("hello"))

    assert delivery.acts == [Reply("one moment"), Reply("hello")]
    assert delivery.answer == "hello"


def test_a_greeting_before_the_first_user_message_belongs_to_no_delivery(write: Write) -> None:
    """Nobody asked for it, so there is no turn that could do it."""
    (delivery,) = cut(write, says("Welcome!"), user("hi"), says("hello"))

    assert delivery == Delivery("c:1", "hi", [Reply("hello")])


def test_system_and_developer_messages_are_not_replayed(write: Write) -> None:
    """They are passed over wherever they stand, whatever they hold, and a key counts them."""
    system, developer = {"role": "system", "content": [{"any": "thing"}]}, {"role": "developer"}
    (delivery,) = cut(write, system, user("hi"), developer, says("hello"), system)

    assert delivery == Delivery("c:1", "hi", [Reply("hello")])


def test_the_users_content_may_be_parts(write: Write) -> None:
    """Chat messages with parts keep them, down to the kinds nobody here knows."""
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    (delivery,) = cut(write, user(parts), says("seen"))

    assert delivery.text == parts


def test_parallel_calls_are_told_apart_by_their_ids(write: Write) -> None:
    """Results may come back in any order; each is its own call's."""
    both = calls(("1", "get_a"), ("2", "get_b"), content="let me look")
    (delivery,) = cut(write, user("hi"), both, result("2", "b"), result("1", "a"), says("done"))

    assert delivery.acts == [Call("get_b", "{}", "b"), Call("get_a", "{}", "a"), Reply("done")]


def test_call_ids_may_come_again(write: Write) -> None:
    """Recorders reuse ids: a result answers the call that is open, not an earlier one."""
    first = [calls(("1", "get_a")), result("1", "a")]
    again = [calls(("1", "get_b")), result("1", "b")]
    one, other = cut(
        write, user("hi"), *first, *again, says("x"), user("more"), calls(("1", "get_c")), result("1", "c")
    )

    assert one.acts == [Call("get_a", "{}", "a"), Call("get_b", "{}", "b"), Reply("x")]
    assert other.acts == [Call("get_c", "{}", "c")]


def test_equal_ids_of_parallel_calls_are_answered_in_order(write: Write) -> None:
    """Two open calls under one id take their results in the order in which they were made."""
    both = calls(("1", "get_a"), ("1", "get_b"))
    (delivery,) = cut(write, user("hi"), both, result("1", "a"), result("1", "b"))

    assert delivery.acts == [Call("get_a", "{}", "a"), Call("get_b", "{}", "b")]


def test_tools_that_write_are_told_by_their_verb() -> None:
    """What reads or computes may run again; anything else is taken to write, the unknown included."""
    for name in ("get_user_details", "search_direct_flight", "calculate", "think", "list-orders", "Find"):
        assert reads(name), name
    for name in ("book_reservation", "send_certificate", "transfer_to_human_agents", "getaway", "", "frobnicate"):
        assert not reads(name), name


def test_line_ends_and_a_byte_order_mark_do_not_matter(write: Write) -> None:
    """Files from other systems read the same; the last line needs no end."""
    line = json.dumps(recorded_as(user("hi"), says("hello"))).encode()

    assert read_conversations([write(b"\xef\xbb\xbf" + line + b"\r\n\r\n")], LIMIT) == read_conversations(
        [write(line)], LIMIT
    )


def test_the_recorded_conversations_come_to_the_known_counts(recorded: Any) -> None:
    """Turns, steps and effects are those that an independent count of the file finds."""
    conversations = read_conversations([recorded.file], LIMIT)
    deliveries = [delivery for conversation in conversations for delivery in conversation.deliveries]
    acts = [act for delivery in deliveries for act in delivery.acts]
    handed = [act for act in acts if isinstance(act, Call) and act.tool in TO_PEOPLE]
    effects = [act for act in acts if isinstance(act, Call) and not reads(act.tool) and act not in handed]

    assert (len(conversations), len(deliveries), len(acts), len(effects), len(handed)) == recorded.expected
    assert all(delivery.answer is not None for delivery in deliveries)
    if recorded.file.name == "airline_conversations.jsonl":
        assert recorded.expected == (150, 984, 1808, 184, 35)


# ---------------------------------------------------------------- several lines, several files


def test_the_same_conversation_twice_is_one(write: Write) -> None:
    """A line that comes again, in this file or in another, adds nothing."""
    one, other = recorded_as(user("hi"), says("hello")), recorded_as(conversation_id="d")
    files = [write(one, other, one, name="a.jsonl"), write(one, name="b.jsonl")]

    assert [found.conversation_id for found in read_conversations(files, LIMIT)] == ["c", "d"]


def test_different_conversations_under_one_id_are_refused(write: Write) -> None:
    """Both places are named: where it stands, and where the other one does."""
    one, other = recorded_as(user("hi"), says("hello")), recorded_as(user("hi"), says("hullo"))
    first, second = write(one, name="a.jsonl"), write(recorded_as(conversation_id="d"), other, name="b.jsonl")

    assert refusal([first, second]) == f"{second}:2: conversation 'c' differs from the one at {first}:1"


# ---------------------------------------------------------------- what cannot be used


BAD_LINES: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "a broken line": (b'{"conversation_id": "c", "messa', "is not a recorded conversation"),
    "no object": (b'["conversation"]', "is not a recorded conversation"),
    "no messages": ({"conversation_id": "c"}, "`messages`"),
    "an id that is no text": (recorded_as(conversation_id=7), "`$.conversation_id`"),
    "an unknown role": (recorded_as(user("hi"), {"role": "oracle", "content": "?"}), "'oracle' - at `$.messages[1]"),
    "a message without a role": (recorded_as({"content": "hi"}), "`role`"),
    "content that is no text": (recorded_as(user({"text": "hi"})), "`$.messages[0].content`"),
    "a result without its call": (recorded_as(user("hi"), result("1", "x")), "tool result '1' without its call"),
    "a result for another call": (
        recorded_as(user("hi"), calls(("1", "get")), result("2", "x")),
        "tool result '2' without its call",
    ),
    "a second result": (
        recorded_as(user("hi"), calls(("1", "get")), result("1", "x"), result("1", "x")),
        "message 3: tool result '1' without its call",
    ),
    "a call without a result": (recorded_as(user("hi"), calls(("1", "get"))), "tool call '1' has no result"),
    "a call answered too late": (
        recorded_as(user("hi"), calls(("1", "get")), says("well"), result("1", "x")),
        "message 2: tool call '1' has no result",
    ),
    "a call before any user message": (
        recorded_as(calls(("1", "get")), result("1", "x"), user("hi"), says("hello")),
        "before any user message",
    ),
    "an assistant who says nothing": (recorded_as(user("hi"), says(None)), "message 1: the assistant neither replies"),
    "a lone surrogate": (
        b'{"conversation_id": "c", "messages": [{"role": "user", "content": "\\ud800"}, {"role": "system"}]}',
        "surrogate",
    ),
    "a lone surrogate in an id": (b'{"conversation_id": "\\udfff", "messages": []}', "is not a recorded conversation"),
    "invalid UTF-8": (
        b'{"conversation_id": "c", "messages": [{"role": "user", "content": "\xff"}]}',
        "is not a recorded conversation",
    ),
    "an empty id": (recorded_as(conversation_id=""), "is empty"),
    "an id that is too long": (recorded_as(conversation_id="x" * 513), "has 513 characters; the limit is 512"),
    "an id too long for a key": (recorded_as(user("hi"), conversation_id="x" * 511), "has 513 characters"),
    "an id with a NUL": (recorded_as(conversation_id="a\0b"), "has a NUL character"),
    "an id that is kept for others": (recorded_as(conversation_id="~1"), "begins with '~'"),
    "nesting far too deep": (
        b'{"conversation_id": "c", "messages": [{"role": "user", "content": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b'}, {"role": "assistant", "content": "x"}]}',
        "is nested too deeply",
    ),
    "a number too big to store": (recorded_as(user([2**64]), says("hello")), "int"),
}


@pytest.mark.parametrize(("line", "said"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_what_is_wrong_in_it(write: Write, line: bytes | dict[str, Any], said: str) -> None:
    """Blank lines count, good lines before it do not hide it, and nothing of the file is used."""
    good = recorded_as(user("hi"), says("hello"), conversation_id="good")
    file = write(good, b"\n", line)

    message = refusal([file])
    assert message.startswith(f"{file}:3: "), message
    assert said in message


def test_a_message_of_fifty_megabytes_is_refused_unread(write: Write) -> None:
    """A line beyond the limit is refused by its length alone, so it costs no memory to speak of."""
    good = recorded_as(user("hi"), says("hello"), conversation_id="good")
    file = write(good, recorded_as(user("x" * (50 << 20)), says("hello")))

    assert refusal([file]) == f"{file}:2: is longer than {LINE_BYTES_MAX} bytes"


def test_a_delivery_larger_than_a_payload_may_be_is_refused(write: Write) -> None:
    """What the store would refuse half-way is refused before anything is accepted; at the limit it is let through."""
    file = write(recorded_as(user("short"), says("x" * 1_000)))

    assert refusal([file], 1_000).startswith(f"{file}:1: delivery 'c:0' is 1")
    assert len(read_conversations([file], 1_100)) == 1


def test_an_empty_file_is_refused(write: Write) -> None:
    """Empty, or nothing but blank lines: the wrong file, most likely; a good file beside it does not hide it."""
    good = write(recorded_as(user("hi"), says("hello")), name="good.jsonl")
    for content in (b"", b"\n \n\t\n"):
        file = write(content, name="empty.jsonl")

        assert refusal([good, file]) == f"{file}: is empty: expected one conversation a line"


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    """The system's reason is said, with the file's name."""
    missing = tmp_path / "none.jsonl"

    assert refusal([missing]) == f"{missing}: No such file or directory"
    assert refusal([tmp_path]) == f"{tmp_path}: Is a directory"
