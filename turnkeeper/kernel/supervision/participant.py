"""Participants: programs outside the runtime that take part; who holds a name, and what a word under it comes to."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.address import check_name
from turnkeeper.kernel.errors import InvalidName, NotJoined, StaleConnection
from turnkeeper.kernel.supervision.liveness import Health, Limits, Pulse
from turnkeeper.kernel.supervision.noted import ChildEventKind

__all__ = [
    "MEANINGS",
    "REMEMBERED_S",
    "REPLACED_MAX",
    "Meaning",
    "Participant",
    "Said",
    "Speaker",
    "Standing",
    "Word",
    "heard",
    "meaning",
]

REMEMBERED_S: Final = 3_600.0
"""How long it is shown who is gone: long enough for a person to come and look."""

REPLACED_MAX: Final = 8
"""Connections remembered of those that a name was taken from, the latest; an older one counts as a new one again."""


class Word(StrEnum):
    """What a connection says under a name."""

    JOIN = "join"
    BEAT = "beat"
    LEAVE = "leave"


class Standing(StrEnum):
    """Whether somebody is there under a name."""

    HELD = "held"  # alive or suspect
    FREE = "free"  # it left, it was silent for too long, or nobody knows it


class Speaker(StrEnum):
    """Who says it."""

    HOLDER = "holder"  # the connection that holds the name, or held it last
    REPLACED = "replaced"  # one that the name was taken from
    OTHER = "other"  # one that has never held it, as far as is remembered


class Meaning(StrEnum):
    """What a word comes to."""

    JOIN = "join"  # a new incarnation, under a name that was free
    TAKE_OVER = "take_over"  # a new incarnation, in the place of another connection's
    BEAT = "beat"  # a sign of life
    LEAVE = "leave"  # the name is free
    NOTHING = "nothing"  # it is gone already


MEANINGS: Final[Mapping[tuple[Standing, Speaker, Word], Meaning]] = MappingProxyType(
    {
        (Standing.HELD, Speaker.HOLDER, Word.JOIN): Meaning.BEAT,
        (Standing.HELD, Speaker.HOLDER, Word.BEAT): Meaning.BEAT,
        (Standing.HELD, Speaker.HOLDER, Word.LEAVE): Meaning.LEAVE,
        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,
        (Standing.FREE, Speaker.HOLDER, Word.JOIN): Meaning.JOIN,
        (Standing.FREE, Speaker.HOLDER, Word.LEAVE): Meaning.NOTHING,
        (Standing.FREE, Speaker.REPLACED, Word.JOIN): Meaning.JOIN,
        (Standing.FREE, Speaker.OTHER, Word.JOIN): Meaning.JOIN,
    }
)
"""Every word that means something. Any other is refused: under a name that is held it is a stale connection's, under a
free one it is of somebody who is not here. So of two connections that fight for a name the newer one has it: a join of
the older one, late or sent again, takes nothing back."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A word from outside, checked.

    Args:
        word: what is said.
        name: under which name.
        connection_id: by which connection.
        role: of one who joins: what it is, for people who look.
        progress: of a beat: it gets on.
    """

    word: Word
    name: str
    connection_id: str
    role: str = ""
    progress: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be a name.

        Raises:
            InvalidName: the name, the connection id or the role is no text, empty (a role may be), too long or not
                encodable; or the name holds a slash.
        """
        check_name("the participant's name", self.name)
        check_name("connection_id", self.connection_id)
        if self.role != "":
            check_name("role", self.role)
        if "/" in self.name:
            raise InvalidName("the participant's name", "must not hold a slash")


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """A name as it stands. Times are of a clock that is never put back, s.

    Args:
        name: who takes part.
        incarnation: which stay this is: every join and every taking over gets a number of its own.
        connection_id: the connection that holds the name, or held it last.
        role: what it said of itself when it came.
        pulse: its signs of life, and what is thought of it.
        due_at: when to look at it next.
        left: it has said that it leaves.
        replaced: connections that the name was taken from since it was free, the latest last.
    """

    name: str
    incarnation: int
    connection_id: str
    role: str
    pulse: Pulse
    due_at: float
    left: bool = False
    replaced: tuple[str, ...] = ()

    @property
    def standing(self) -> Standing:
        """Return whether it is there."""
        return Standing.FREE if self.left or self.pulse.health is Health.DEAD else Standing.HELD

    @property
    def suspect(self) -> bool:
        """Say whether it is there, and silent for longer than it may be."""
        return not self.left and self.pulse.health is Health.SUSPECT

    def speaker(self, connection_id: str) -> Speaker:
        """Return who a connection is to this name."""
        if connection_id == self.connection_id:
            return Speaker.HOLDER
        return Speaker.REPLACED if connection_id in self.replaced else Speaker.OTHER

    def looked_at(self, limits: Limits, now: float) -> "tuple[Participant, ChildEventKind]":
        """Return it after a silence that is due, and what has happened."""
        pulse = self.pulse.looked_at(limits, now)
        if pulse.health is Health.DEAD:
            return msgspec.structs.replace(self, pulse=pulse, due_at=now + REMEMBERED_S), ChildEventKind.DIED
        return msgspec.structs.replace(self, pulse=pulse, due_at=pulse.due_at(limits)), ChildEventKind.SUSPECTED


def meaning(said: Said, before: Participant | None) -> Meaning:
    """Return what a word comes to.

    Args:
        said: the word.
        before: its name as it stands; None where nobody knows it.

    Raises:
        StaleConnection: another connection holds the name.
        NotJoined: nobody of this name is here.
    """
    standing, speaker = Standing.FREE, Speaker.OTHER
    if before is not None:
        standing, speaker = before.standing, before.speaker(said.connection_id)
    found = MEANINGS.get((standing, speaker, said.word))
    if found is None:
        if standing is Standing.HELD:
            raise StaleConnection(said.name, said.connection_id)
        raise NotJoined(said.name)
    return found


def heard(
    said: Said, before: Participant | None, limits: Limits, now: float, incarnation: int
) -> tuple[Participant, ChildEventKind | None]:
    """Return a name after a word, and what has happened: None for nothing that is worth a note.

    Args:
        said: the word.
        before: its name as it stands; None where nobody knows it.
        limits: how long silence is borne.
        now: s.
        incarnation: the number of a new one, if this is one.

    Raises:
        StaleConnection: another connection holds the name.
        NotJoined: nobody of this name is here.
    """
    found = meaning(said, before)
    if before is None or found is Meaning.JOIN:
        return _come(said, limits, now, incarnation), ChildEventKind.JOINED
    match found:
        case Meaning.TAKE_OVER:
            replaced = (*before.replaced, before.connection_id)[-REPLACED_MAX:]
            return _come(said, limits, now, incarnation, replaced), ChildEventKind.TAKEN_OVER
        case Meaning.BEAT:
            pulse = before.pulse.beaten(before.incarnation, now, progress=said.progress)
            event = ChildEventKind.RECOVERED if before.suspect else None
            return msgspec.structs.replace(before, pulse=pulse, due_at=pulse.due_at(limits)), event
        case Meaning.LEAVE:
            return msgspec.structs.replace(before, left=True, due_at=now + REMEMBERED_S), ChildEventKind.LEFT
        case Meaning.NOTHING:
            return before, None


def _come(said: Said, limits: Limits, now: float, incarnation: int, replaced: tuple[str, ...] = ()) -> Participant:
    pulse = Pulse(incarnation, now, now)
    return Participant(
        name=said.name,
        incarnation=incarnation,
        connection_id=said.connection_id,
        role=said.role,
        pulse=pulse,
        due_at=pulse.due_at(limits),
        replaced=replaced,
    )
