"""Envelopes: what a runtime and a worker process say to each other, one JSON object a line, and what is refused."""

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

__all__ = [
    "ID_LEN_MAX",
    "VERSION",
    "Answer",
    "Bye",
    "Call",
    "Cancel",
    "Did",
    "Failed",
    "Fault",
    "FromWorker",
    "Go",
    "Heartbeat",
    "Hello",
    "Lines",
    "Ping",
    "Pong",
    "Problem",
    "Raised",
    "Ready",
    "Refusal",
    "Refused",
    "Result",
    "Step",
    "Take",
    "ToWorker",
    "TooLong",
    "encoded",
    "problem",
    "understood",
]

VERSION: Final = 1
"""Of the protocol; the first field of every message."""

_SAID_LEN_MAX: Final = 300
"""Characters of an explanation: it is sent back for each line that was not understood."""

ID_LEN_MAX: Final = 200
"""Characters of the id of a call or a step: every answer carries it, and has to fit into a line."""

_INT_MAX: Final = 2**63 - 1

Id = Annotated[int, msgspec.Meta(ge=-_INT_MAX, le=_INT_MAX)] | Annotated[str, msgspec.Meta(max_length=ID_LEN_MAX)]
"""How a worker names a call or a step of its own."""


class _Said(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What goes to a worker; its version is written before it."""


class _Heard(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """What comes from a worker; its version has been looked at before."""

    v: int = VERSION


# ------------------------------------------------------------ from the runtime to the worker


class Hello(_Said, frozen=True, kw_only=True, tag="hello"):
    """The first line. The worker answers `ready`, with the incarnation.

    Args:
        incarnation: this start of the worker; its beats carry it.
        agent: the name of the agent.
        line_bytes_max: no line may be longer, with its end, in either direction.
        silent_s: a worker that says nothing for so long is suspect, and killed after as long a grace again.
    """

    incarnation: int
    agent: str
    line_bytes_max: int
    silent_s: float


class Take(_Said, frozen=True, kw_only=True, tag="turn"):
    """A turn to run, or to run again: `attempt` counts from 1, and what is recorded is answered from the record."""

    turn: int
    tenant: str
    session: str
    key: str
    attempt: int
    input: Any


class Answer(_Said, frozen=True, kw_only=True, tag="answer"):
    """The end of a call or a step: its result, as the record holds it."""

    turn: int
    id: int | str
    result: Any


class Go(_Said, frozen=True, kw_only=True, tag="go"):
    """The step's intent is durable where it must be: do it now, then say `did`. The key is "" for a pure step."""

    turn: int
    id: int | str
    idempotency_key: str


class Failed(_Said, frozen=True, kw_only=True, tag="failed"):
    """The end of a call or a step: it failed, and that is recorded; a rerun fails there again."""

    turn: int
    id: int | str
    error: str
    message: str


class Refused(_Said, frozen=True, kw_only=True, tag="refused"):
    """The end of a call or a step that was never begun: nothing was called, and nothing is recorded."""

    turn: int
    id: int | str
    error: str
    message: str


class Problem(_Said, frozen=True, kw_only=True, tag="error"):
    """A line of the worker's was not understood, or came out of place; `code` is a `Refusal`'s."""

    code: str
    message: str


class Cancel(_Said, frozen=True, kw_only=True, tag="cancel"):
    """The turn is not wanted any more: end it with `result` or `error`, soon; which does not count."""

    turn: int


class Ping(_Said, frozen=True, kw_only=True, tag="ping"):
    """Are you there? Answered with `pong`, or with any other line."""

    n: int


class Bye(_Said, frozen=True, kw_only=True, tag="bye"):
    """No turn will come any more. The worker ends. It comes behind the end of a turn, or once that is cancelled."""


ToWorker = Hello | Take | Answer | Go | Failed | Refused | Problem | Cancel | Ping | Bye
"""Everything that a runtime says."""


# ------------------------------------------------------------ from the worker to the runtime


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker says of an error: the name of its type, and its message."""

    error: str
    message: str = ""


class Ready(_Heard, frozen=True, kw_only=True, tag="ready"):
    """The worker is up and takes turns."""

    incarnation: int


class Pong(_Heard, frozen=True, kw_only=True, tag="pong"):
    """The answer to `ping`."""

    incarnation: int
    n: int = 0


class Heartbeat(_Heard, frozen=True, kw_only=True, tag="heartbeat"):
    """A sign of life without being asked; `progress`, if there is one, says that the work gets on."""

    incarnation: int
    progress: str = ""


class Call(_Heard, frozen=True, kw_only=True, tag="call"):
    """Call a tool of the runtime, as a recorded step. `id` is the worker's own; the answer carries it.

    Args:
        turn: the turn.
        id: names this call in its answer; not used twice while one is open.
        tool: its name, as given to the runtime.
        arguments: by name.
        key: a call key of its own for the step; "" lets the runtime count the calls of a tool.
    """

    turn: int
    id: Id
    tool: str
    arguments: dict[str, Any] = {}
    key: str = ""


class Step(_Heard, frozen=True, kw_only=True, tag="step"):
    """Do a step in the worker, recorded by the runtime: answered at once from the record, or with `go`.

    Args:
        turn: the turn.
        id: names this step in its answers.
        name: the step's name in the record.
        effect: what doing it twice would do: `pure`, `idempotent` or `effectful`.
        arguments: what it is done with; a rerun that says others is refused.
        key: a call key of its own; "" lets the runtime count the steps of a name.
    """

    turn: int
    id: Id
    name: str
    effect: str = "pure"
    arguments: Any = None
    key: str = ""


class Did(_Heard, frozen=True, kw_only=True, tag="did"):
    """A step that was told to go has ended: with a result, or with an error. Answered with `answer` or `failed`."""

    turn: int
    id: Id
    result: Any = None
    fault: Fault | None = None


class Result(_Heard, frozen=True, kw_only=True, tag="result"):
    """The turn's end: its deliverable."""

    turn: int
    value: Any = None


class Raised(_Heard, frozen=True, kw_only=True, tag="error"):
    """The turn's end: it failed.

    Args:
        turn: the turn.
        error: name of the error's type.
        message: what it says.
        of: id of the call or step whose failure this is: the turn is judged by that then, as if a handler had let it
            through.
    """

    turn: int
    error: str
    message: str = ""
    of: Id | None = None


FromWorker = Ready | Pong | Heartbeat | Call | Step | Did | Result | Raised
"""Everything that a worker may say."""


# ------------------------------------------------------------ lines


class Refusal(StrEnum):
    """Why a line is not taken."""

    TOO_LONG = "too_long"
    NOT_JSON = "not_json"  # also what is no UTF-8
    VERSION = "version"  # of another protocol
    UNKNOWN = "unknown"  # a type, or a field, that there is not
    STALE = "stale"  # of an incarnation, or a turn, that is gone
    OUT_OF_PLACE = "out_of_place"  # understood, and not what may be said now


class _Head(msgspec.Struct, frozen=True, gc=False):
    v: int
    type: str


_VERSIONED: Final = b'{"v":%d,' % VERSION
_encoder: Final = msgspec.json.Encoder()
_heads: Final = msgspec.json.Decoder(_Head)
_decoder: Final = msgspec.json.Decoder(FromWorker)


def encoded(message: ToWorker) -> bytes:
    """Return a message as a line, with its end.

    Raises:
        TypeError, ValueError, RecursionError: a value in it is nothing that JSON can hold.
    """
    return _VERSIONED + _encoder.encode(message)[1:] + b"\n"


def understood(line: bytes) -> FromWorker | Problem:
    """Return what a worker's line says, or why it is not taken. Raises nothing, whatever the line is."""
    try:
        head = _heads.decode(line)
    except msgspec.ValidationError as error:
        return problem(Refusal.UNKNOWN, str(error))
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        return problem(Refusal.NOT_JSON, str(error))
    if head.v != VERSION:
        return problem(Refusal.VERSION, f"version {head.v} of the protocol; this runtime speaks {VERSION}")
    try:
        said: FromWorker = _decoder.decode(line)
    except msgspec.ValidationError as error:
        return problem(Refusal.UNKNOWN, str(error))
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        return problem(Refusal.NOT_JSON, str(error))
    return said


def problem(code: Refusal, said: str) -> Problem:
    """Return what a worker is told of a line that is not taken; at most a few hundred characters of it."""
    return Problem(code=code.value, message=said[:_SAID_LEN_MAX])


class TooLong(msgspec.Struct, frozen=True, gc=False):
    """Where a line stood that was longer than may be: its beginning."""

    start: bytes


class Lines:
    """Bytes, in whatever pieces they come, as lines; never more than one line of them is held.

    What is too long is given up once, as it becomes too long, and once more for each length of a line that it goes on:
    so that an endless one does not pass for a single mistake.
    """

    __slots__ = ("_bytes_max", "_held", "_skipped", "_skipping")

    def __init__(self, bytes_max: int) -> None:
        """Take lines of at most so many bytes, their ends not counted."""
        self._bytes_max = bytes_max
        self._held = bytearray()
        self._skipping = False
        self._skipped = 0

    @property
    def half(self) -> int:
        """Return how many bytes of an unfinished line are held."""
        return len(self._held)

    def feed(self, piece: bytes) -> list[bytes | TooLong]:
        """Return the lines that end in this piece, without their ends; one of nothing but blanks is b"".

        Those say nothing, and are returned to be counted: reading them costs as much as reading others.
        """
        found: list[bytes | TooLong] = []
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._take(part, found)
            if not self._skipping:
                found.append(bytes(self._held).rstrip(b"\r") if self._held.strip() else b"")
            self._held.clear()
            self._skipping = False
        self._take(rest, found)
        return found

    def _take(self, part: bytes, found: list[bytes | TooLong]) -> None:
        if self._skipping:
            self._skipped += len(part)
            while self._skipped > self._bytes_max:
                self._skipped -= self._bytes_max
                found.append(TooLong(b""))
            return
        self._held += part
        if len(self._held) > self._bytes_max:
            found.append(TooLong(bytes(self._held[:80])))
            self._skipped = len(self._held) - self._bytes_max
            self._held.clear()
            self._skipping = True
