"""Recorded conversations: JSON lines in the OpenAI chat format, read strictly and cut into deliveries."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from turnkeeper.actors.values import encode
from turnkeeper.kernel.address import address, check_key
from turnkeeper.kernel.errors import ContractViolation, InvalidName, PayloadTooLarge

__all__ = ["AGENT_ID", "Act", "BadInput", "Call", "Conversation", "Delivery", "Reply", "read_conversations"]

AGENT_ID: Final = "assistant"
_DEPTH_MAX: Final = 200
LINE_BYTES_MAX: Final = 32 * 1024 * 1024
"""One conversation; longer lines are refused unread."""


class BadInput(Exception):
    """A recorded file that cannot be used: which file, which line, what is wrong."""

    def __init__(self, file: Path, line: int | None, what: str) -> None:
        """Say it in one line."""
        super().__init__(f"{file}:{line}: {what}" if line is not None else f"{file}: {what}")


class Reply(msgspec.Struct, frozen=True, tag=True):
    """A plain reply of the recorded assistant."""

    text: str


class Call(msgspec.Struct, frozen=True, tag=True):
    """A tool call of the recorded assistant, with its recorded result; `arguments` is JSON as recorded."""

    tool: str
    arguments: str
    result: str


Act = Reply | Call


class Delivery(msgspec.Struct, frozen=True):
    """One user message, and everything the assistant did until the next one."""

    key: str
    text: Any
    acts: list[Act]

    @property
    def answer(self) -> str | None:
        """Return the deliverable: the last thing said, or the last tool's result."""
        match self.acts[-1] if self.acts else None:
            case Reply(text=text):
                return text
            case Call(result=result):
                return result
            case None:
                return None


class Conversation(msgspec.Struct, frozen=True):
    """One recorded conversation: its session's name and its deliveries in order."""

    conversation_id: str
    deliveries: list[Delivery]


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function


class _User(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[Any]


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Tool(msgspec.Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str


class _System(msgspec.Struct, tag_field="role", tag="system"):
    content: Any = None


class _Developer(msgspec.Struct, tag_field="role", tag="developer"):
    content: Any = None


class _Recorded(msgspec.Struct):
    conversation_id: str
    messages: list[_User | _Assistant | _Tool | _System | _Developer]


_decoder = msgspec.json.Decoder(_Recorded)


def read_conversations(files: Sequence[Path], payload_bytes_max: int) -> list[Conversation]:
    """Return every conversation of the files, in order; nothing is accepted before all of them are read.

    The same conversation twice is one; two that share an id and differ are an error.

    Raises:
        BadInput: a file cannot be read, or a line is not a recorded conversation.
    """
    found: dict[str, tuple[Conversation, Path, int]] = {}
    for file in files:
        before = len(found)
        lines = 0
        for line, text in _lines(file):
            lines += 1
            conversation = _parse(file, line, text, payload_bytes_max)
            known = found.setdefault(conversation.conversation_id, (conversation, file, line))
            if known[0] != conversation:
                said = f"conversation {conversation.conversation_id!r} differs from the one at {known[1]}:{known[2]}"
                raise BadInput(file, line, said)
        if not lines and len(found) == before:
            raise BadInput(file, None, "is empty: expected one conversation a line")
    return [conversation for conversation, _, _ in found.values()]


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hold anything, numbered from 1."""
    try:
        with file.open("rb") as opened:
            number = 0
            while text := opened.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(text) > LINE_BYTES_MAX:
                    raise BadInput(file, number, f"is longer than {LINE_BYTES_MAX} bytes")
                if number == 1:
                    text = text.removeprefix(b"\xef\xbb\xbf")
                if text.strip():
                    yield number, text
    except OSError as error:
        raise BadInput(file, None, error.strerror or str(error)) from error


def _parse(file: Path, line: int, text: bytes, payload_bytes_max: int) -> Conversation:
    try:
        recorded = _decoder.decode(text)
    except RecursionError as error:
        raise BadInput(file, line, "is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(file, line, f"is not a recorded conversation: {error}") from error
    try:
        address("", recorded.conversation_id, AGENT_ID)
        check_key(_key(recorded.conversation_id, len(recorded.messages)))
        conversation = Conversation(recorded.conversation_id, _cut(recorded))
    except (InvalidName, ValueError) as error:
        raise BadInput(file, line, str(error)) from error
    for delivery in conversation.deliveries:
        try:
            encode(delivery, f"delivery {delivery.key!r}", payload_bytes_max)
        except (ContractViolation, PayloadTooLarge) as error:
            raise BadInput(file, line, str(error)) from error
        if _depth(delivery.text) > _DEPTH_MAX:
            raise BadInput(file, line, f"delivery {delivery.key!r} is nested too deeply")
    return conversation


def _depth(value: Any) -> int:
    """Return how deep lists and maps are nested in a value."""
    depth, inside = 0, [value]
    while inside:
        depth += 1
        within = [one.values() if isinstance(one, dict) else one for one in inside if isinstance(one, dict | list)]
        inside = [part for parts in within for part in parts]
    return depth


def _key(conversation_id: str, position: int) -> str:
    return f"{conversation_id}:{position}"


def _cut(recorded: _Recorded) -> list[Delivery]:
    """Cut a conversation into deliveries: each user message that the assistant did something after.

    Raises:
        ValueError: a tool result without its call, a call without its result, an assistant who says nothing.
    """
    deliveries: list[Delivery] = []
    asked: list[Delivery] = []  # user messages since the assistant last did anything
    calls: list[_ToolCall] = []  # called, and not answered yet
    for position, message in enumerate(recorded.messages):
        if calls and not isinstance(message, _Tool):
            raise ValueError(f"message {position}: tool call {calls[0].id!r} has no result before it")
        match message:
            case _User(content=content):
                asked.append(Delivery(_key(recorded.conversation_id, position), content, []))
            case _System() | _Developer():
                pass
            case _Assistant(tool_calls=list() as made) if made:
                calls.extend(made)
            case _Assistant() | _Tool():
                deliveries.extend(asked)
                asked.clear()
                _do(deliveries, _act(message, calls, position), position)
    if calls:
        raise ValueError(f"tool call {calls[0].id!r} has no result")
    return deliveries


def _do(deliveries: list[Delivery], act: Act, position: int) -> None:
    """Let an act belong to the latest delivery; a greeting before the first one belongs to none."""
    if deliveries:
        deliveries[-1].acts.append(act)
    elif isinstance(act, Call):
        raise ValueError(f"message {position}: a tool result before any user message")


def _act(message: _Assistant | _Tool, calls: list[_ToolCall], position: int) -> Act:
    if isinstance(message, _Tool):
        return _answered(calls, message, position)
    if message.content is None:
        raise ValueError(f"message {position}: the assistant neither replies nor calls a tool")
    return Reply(message.content)


def _answered(calls: list[_ToolCall], result: _Tool, position: int) -> Call:
    """Take the call that a result answers off the list. Ids may come again later in a conversation."""
    for call in calls:
        if call.id == result.tool_call_id:
            calls.remove(call)
            return Call(call.function.name, call.function.arguments, result.content)
    raise ValueError(f"message {position}: tool result {result.tool_call_id!r} without its call")
