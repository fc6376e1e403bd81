"""Notes: what is kept of supervision, the verbs that were said and what became of children.

None of it is part of a turn's history. It is bounded: a child that falls again and again cannot fill the disk.
"""

from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from turnkeeper.kernel.errors import InvalidName
from turnkeeper.kernel.records import ChildNoted, DesiredSet
from turnkeeper.kernel.supervision.child import Exit
from turnkeeper.kernel.supervision.desired import Desired, Verb, desired_after

__all__ = [
    "DETAIL_BYTES_MAX",
    "EVENTS_MAX",
    "EVENTS_PER_PATH_MAX",
    "PATH_BYTES_MAX",
    "SAID",
    "TEXT_BYTES_MAX",
    "VERB_KINDS",
    "ChildEvent",
    "ChildEventKind",
    "DesiredRow",
    "Note",
    "check_path",
    "decode_note",
    "digest_of_desired",
    "digest_of_event",
    "note_of_exit",
    "noted",
    "verb_noted",
]

EVENTS_PER_PATH_MAX: Final = 200
"""Events kept of one path, the newest: some sixty restarts, or the whole way into quarantine six times over."""

EVENTS_MAX: Final = 10_000
"""Events kept in all: a few megabytes, however many children there are."""

PATH_BYTES_MAX: Final = 4_096
"""Of a path in UTF-8; an agent's name of the longest fits in whatever script."""

TEXT_BYTES_MAX: Final = 1_000
"""Of a reason and of each other text of a note, in UTF-8: what is longer is cut, so that it is noted at all."""

DETAIL_BYTES_MAX: Final = 4_096
"""Of a note as stored: its three texts and its numbers."""


class ChildEventKind(StrEnum):
    """What can be noted of a child, an agent or a supervisor; the value is what the store holds. The list is closed."""

    STARTED = "started"  # an incarnation is up
    EXITED = "exited"  # it ended by itself, as it was meant to
    CRASHED = "crashed"  # it ended by itself, or could not be started
    RESTARTED = "restarted"  # it is to be started again, after a pause
    ENDED = "ended"  # its supervisor brought it down
    SUSPECTED = "suspected"  # silent for longer than it may be
    RECOVERED = "recovered"  # it beat while it was suspected
    DIED = "died"  # silent through the grace as well
    STALLED = "stalled"  # alive, and it does not get on
    BLOCKED = "blocked"  # it held up the event loop
    ESCALATED = "escalated"  # its supervisor gave up, and the parent decides
    JOINED = "joined"  # an external participant came
    LEFT = "left"  # it went
    TAKEN_OVER = "taken_over"  # another connection speaks for it
    PAUSED = "paused"  # a verb was said, as are the next four
    RESUMED = "resumed"
    STOPPED = "stopped"
    QUARANTINED = "quarantined"
    RELEASED = "released"


SAID: Final[Mapping[Verb, tuple[ChildEventKind, Desired]]] = MappingProxyType(
    {
        Verb.PAUSE: (ChildEventKind.PAUSED, Desired.PAUSED),
        Verb.RESUME: (ChildEventKind.RESUMED, Desired.RUNNING),
        Verb.STOP: (ChildEventKind.STOPPED, Desired.STOPPED),
        Verb.QUARANTINE: (ChildEventKind.QUARANTINED, Desired.QUARANTINED),
        Verb.RELEASE: (ChildEventKind.RELEASED, Desired.RUNNING),
    }
)
"""What is noted of a verb, and what is wanted after it. Only `verb_noted` makes these events."""

VERB_KINDS: Final = frozenset(kind for kind, _ in SAID.values())
"""Kinds of events that a verb leaves, and nothing else does."""


class DesiredRow(NamedTuple):
    """What is wanted of somebody, as it was last said. What has no row is to run."""

    path: str
    desired: Desired
    reason: str
    at: float
    changed_by: str
    digest: bytes


class Note(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is said of an event. A msgpack array: append fields at the end, with a default, and never reorder them.

    Args:
        reason: why, in words.
        error: type of what was raised; empty for none.
        code: exit code of a process.
        signal: what killed a process.
        restart: the restart's number within the window of its intensity, from 1.
        pause_s: how long until it is started again.
        pid: the process that is meant.
        by: who said the verb: an operator's name, or the path of a supervisor.
    """

    reason: str = ""
    error: str = ""
    code: int | None = None
    signal: int | None = None
    restart: int | None = None
    pause_s: float | None = None
    pid: int | None = None
    by: str = ""


class ChildEvent(NamedTuple):
    """Something noted, by its number in the store's own order; the numbers have no gap when they are given out.

    `detail` is its note as stored, and `note` the same to read: why, by whom, how it ended.
    """

    event_id: int
    at: float
    boot_id: int
    path: str
    kind: ChildEventKind
    incarnation: int
    detail: bytes
    digest: bytes

    @property
    def note(self) -> Note:
        """Return what is said of it.

        Raises:
            msgspec.DecodeError: the stored bytes are damaged.
        """
        return decode_note(self)


_NOTHING: Final = Note()
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Note)


def check_path(path: str) -> None:
    """Refuse a path that could not be stored.

    Raises:
        InvalidName: it is empty, too long, or no valid text.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError as error:
        raise InvalidName("path", f"{path!r} is not valid text: {error.reason}") from error
    if not path:
        raise InvalidName("path", "is empty")
    if size > PATH_BYTES_MAX:
        raise InvalidName("path", f"has {size} bytes; the limit is {PATH_BYTES_MAX}")


def noted(
    path: str, kind: ChildEventKind, note: Note = _NOTHING, *, incarnation: int = 0, at: float, boot_id: int
) -> ChildNoted:
    """Return the record of something that happened to a child; texts that are too long are cut.

    Args:
        path: whose event it is, `agents/billing` or `tree/shop/prices`.
        kind: what happened.
        note: what is said of it.
        incarnation: of the child; 0 where no incarnation is meant.
        at: wall time, s.
        boot_id: the runtime that saw it.

    Raises:
        InvalidName: the path cannot be stored.
        ValueError: the kind is a verb's: use `verb_noted`, so that what is wanted stands in the same commit.
    """
    if kind in VERB_KINDS:
        msg = f"{kind} is what a verb leaves; say the verb by verb_noted()"
        raise ValueError(msg)
    return _event(ChildNoted(path, kind.value, incarnation, float(at), boot_id, b""), note)


def _event(record: ChildNoted, note: Note) -> ChildNoted:
    check_path(record.path)
    cut = {name: _cut(getattr(note, name)) for name in ("reason", "error", "by")}
    detail = _encoder.encode(msgspec.structs.replace(note, **cut))
    record = msgspec.structs.replace(record, detail=detail)
    return msgspec.structs.replace(record, digest=digest_of_event(record))


def verb_noted(
    path: str, desired: Desired, verb: Verb, note: Note = _NOTHING, *, at: float, boot_id: int
) -> tuple[Desired, tuple[DesiredSet, ChildNoted]]:
    """Return what is wanted after a verb, and its two records, which belong into one commit point.

    Args:
        path: who is meant.
        desired: what is wanted of it now; of what has no row, running.
        verb: what is said.
        note: why, and by whom.
        at: wall time, s.
        boot_id: the runtime that was told.

    Raises:
        VerbRefused: the verb means nothing there.
        InvalidName: the path cannot be stored.
    """
    after = desired_after(desired, verb)
    event = _event(ChildNoted(path, SAID[verb][0].value, 0, float(at), boot_id, b""), note)
    record = DesiredSet(path, after.value, _cut(note.reason), float(at), _cut(note.by))
    return after, (msgspec.structs.replace(record, digest=digest_of_desired(record)), event)


def note_of_exit(ended: Exit) -> tuple[ChildEventKind, Note]:
    """Return how an incarnation's end is noted."""
    kind = ChildEventKind.CRASHED
    if ended.normal:
        kind = ChildEventKind.EXITED
    elif ended.reason == "silent":
        kind = ChildEventKind.DIED
    return kind, Note(ended.reason, ended.error, ended.code, ended.signal)


def decode_note(event: ChildEvent) -> Note:
    """Return what is said of an event.

    Raises:
        msgspec.DecodeError: the stored bytes are damaged.
    """
    return _decoder.decode(event.detail)


def _cut(text: str) -> str:
    """Return as much of a text as may be stored; what is no valid text is made one."""
    return text[:TEXT_BYTES_MAX].encode(errors="replace")[:TEXT_BYTES_MAX].decode(errors="ignore")


def digest_of_event(event: ChildNoted | ChildEvent) -> bytes:
    """Return the digest of an event: 8 bytes over all of it but its number."""
    return _digest(event.path, str(event.kind), event.incarnation, event.at, event.boot_id, event.detail)


def digest_of_desired(row: DesiredSet | DesiredRow) -> bytes:
    """Return the digest of what is wanted of somebody: 8 bytes over all of it."""
    return _digest(row.path, str(row.desired), row.reason, row.at, row.changed_by)


def _digest(*facts: object) -> bytes:
    return blake2b(_encoder.encode(facts), digest_size=8).digest()
