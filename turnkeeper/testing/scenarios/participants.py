"""The participants scenario: programs that join, beat, fall silent, come back and fight for names, in every order.

Every name is wanted by several programs, and their words are late by more or less. A book keeps what is noted, and a
witness what was said and answered: at no moment may the two, and what is shown, tell different stories.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from turnkeeper.kernel.errors import NotJoined, ShuttingDown, StaleConnection
from turnkeeper.kernel.supervision.child import ChildSpec
from turnkeeper.kernel.supervision.desired import Verb
from turnkeeper.kernel.supervision.liveness import Health, Limits
from turnkeeper.kernel.supervision.noted import ChildEventKind, Note
from turnkeeper.kernel.supervision.participant import REMEMBERED_S, REPLACED_MAX, Word
from turnkeeper.supervisors.chronicle import Unrecorded
from turnkeeper.supervisors.participants import PARTICIPANTS, Participants
from turnkeeper.supervisors.supervisor import Supervisor
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life"]

_NAMES: Final = ("ant", "bee", "cat")
_PROGRAMS: Final = 2
"""For each name."""
_ACTS: Final = 25
_LIMITS: Final = Limits(silent_s=10.0, grace_s=5.0)
_PAUSES_S: Final = (0.0, 3.0, 6.0, 9.0, 12.0, 14.9, 20.0)
"""Between two words: most are short enough, some make suspect, the last one ends it."""
_LATE_S: Final = 2.0
_BREAK_S: Final = 200.0
_SLACK_S: Final = 1e-6

_NEW: Final = frozenset({ChildEventKind.JOINED, ChildEventKind.TAKEN_OVER})
_BEFORE: Final[Mapping[ChildEventKind, set[Health | None]]] = {
    ChildEventKind.JOINED: {None},
    ChildEventKind.TAKEN_OVER: {Health.ALIVE, Health.SUSPECT},
    ChildEventKind.SUSPECTED: {Health.ALIVE},
    ChildEventKind.RECOVERED: {Health.SUSPECT},
    ChildEventKind.LEFT: {Health.ALIVE, Health.SUSPECT},
    ChildEventKind.DIED: {Health.SUSPECT},
}
"""What must be noted of a name before each note; None for nobody there."""
_AFTER: Final[Mapping[ChildEventKind, Health]] = {
    ChildEventKind.JOINED: Health.ALIVE,
    ChildEventKind.TAKEN_OVER: Health.ALIVE,
    ChildEventKind.SUSPECTED: Health.SUSPECT,
    ChildEventKind.RECOVERED: Health.ALIVE,
}


async def life(world: World) -> None:
    """Let programs take part for a while, and an operator stop it all now and then; then let all fall silent."""
    crowd = _Crowd(world)
    async with crowd.root.running(), asyncio.TaskGroup() as group:
        for name in _NAMES:
            for number in range(_PROGRAMS):
                group.create_task(crowd.take_part(name, number))
        group.create_task(crowd.operate())
        group.create_task(crowd.settle())
    crowd.check_forgotten("it has ended")


class _Told(msgspec.Struct, frozen=True):
    """What the notes of one name come to."""

    health: Health
    incarnation: int
    since_s: float


class _Book(Unrecorded):
    """Keeps what is noted, folded, and checks that each note can follow those before it."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._latest = 0
        self.told: dict[str, _Told] = {}
        self.notes = 0
        self.boots = 0

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:  # noqa: ARG002
        self.notes += 1
        if path == PARTICIPANTS:
            self.boots += 1
            self.told.clear()
            return
        name, now = path.removeprefix(f"{PARTICIPANTS}/"), asyncio.get_running_loop().time()
        before = self.told.pop(name, None)
        if (before.health if before is not None else None) not in _BEFORE[kind]:
            self._report("each note follows from the one before", f"{name} {kind} after {before}")
        if kind not in _NEW and before is not None and before.incarnation != incarnation:
            self._report("a note is of who is there", f"{name} {kind} of incarnation {incarnation} after {before}")
        if kind in _NEW and incarnation <= self._latest:
            self._report("an incarnation is new", f"{name} {kind} as {incarnation}; {self._latest} was there before")
        if kind is ChildEventKind.DIED and before is not None and now < before.since_s + _LIMITS.grace_s - _SLACK_S:
            self._report("nobody is gone before the whole grace", f"{name} at {now:g} s after {before}")
        self._latest = max(self._latest, incarnation)
        if kind in _AFTER:
            self.told[name] = _Told(_AFTER[kind], incarnation, now)

    def _report(self, rule: str, what: str) -> None:
        self._world.report(Violated(rule, what))


class _Name(msgspec.Struct):
    """What was said under a name and answered: who holds it, who did last, who lost it, and the last sign of life."""

    holder: str = ""
    last: str = ""
    lost: list[str] = []
    beat_s: float = 0.0


class _Crowd:
    """The programs, the operator, and the witness of what they are told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw = world.chance.random
        self._book = _Book(world)
        self._participants = Participants(_LIMITS)
        self._participants.adopt(PARTICIPANTS, self._book)
        self._names: dict[str, _Name] = {}
        self._boots = 0
        self.root = Supervisor([ChildSpec(name=PARTICIPANTS, child=self._participants)])
        self.root.adopt("", self._book)
        loop: Any = asyncio.get_running_loop()
        loop.before_time_passes.append(self._look)

    # ------------------------------------------------------------ who takes part

    async def take_part(self, name: str, number: int) -> None:
        """Be one program after another: each joins, says this and that, and comes back under a fresh connection."""
        connection = ""
        for act in range(_ACTS):
            if not connection or self._draw() < 0.1:  # noqa: PLR2004
                connection = f"{number}-{act}"
                self._send(Word.JOIN, name, connection)
            await asyncio.sleep(_PAUSES_S[int(self._draw() * len(_PAUSES_S))])
            drawn = self._draw()
            word = Word.BEAT if drawn < 0.7 else Word.JOIN if drawn < 0.9 else Word.LEAVE  # noqa: PLR2004
            self._send(word, name, connection)

    def _send(self, word: Word, name: str, connection: str) -> None:
        """Say something; now and then it arrives late, behind what is said next."""
        if self._draw() < 0.2:  # noqa: PLR2004
            asyncio.get_running_loop().call_later(_LATE_S * self._draw(), self._arrive, word, name, connection)
        else:
            self._arrive(word, name, connection)

    async def operate(self) -> None:
        """Stop it all, now and then, and let it go on."""
        while self._draw() < 0.5:  # noqa: PLR2004
            await asyncio.sleep(_BREAK_S * self._draw())
            await self.root.tell(PARTICIPANTS, Verb.STOP)
            await asyncio.sleep(_LATE_S)
            await self.root.tell(PARTICIPANTS, Verb.RESUME)

    async def settle(self) -> None:
        """Wait until all have fallen silent, and until nobody remembers them."""
        await asyncio.sleep(_ACTS * max(_PAUSES_S) + 10 * _BREAK_S)
        if self._book.told:
            self._report("silence ends in the end", str(self._book.told))
        await asyncio.sleep(REMEMBERED_S + 1)
        self.check_forgotten("an hour has passed")

    def check_forgotten(self, when: str) -> None:
        """Check that nothing is known of anybody any more."""
        if children := self._participants.view().children:
            self._report("the gone are forgotten", f"{when}, and {children[0].name} is shown")

    # ------------------------------------------------------------ what they are told

    def _arrive(self, word: Word, name: str, connection: str) -> None:
        """Say something, and check what it is answered, and what it changes."""
        known = self._known(name)
        before = self._state()
        try:
            with suppress(ShuttingDown):
                getattr(self._participants, word)(name, connection)
                self._taken(word, name, known, connection)
                self._compare()
        except (NotJoined, StaleConnection) as refusal:
            said = f"{connection} says {word} as {name}: {refusal!r}"
            if self._state() != before:
                self._report("a word that is refused changes nothing", said)
            if known.holder == connection:
                self._report("the holder of a name is heard", said)
            if isinstance(refusal, StaleConnection) != bool(known.holder):
                self._report("a refusal says why", said)
            if word is Word.JOIN and not (known.holder and connection in known.lost):
                self._report("a free name is given, and a held one to a newer connection", said)

    def _taken(self, word: Word, name: str, known: _Name, connection: str) -> None:
        """Take note of a word that was accepted."""
        said = f"{connection} says {word} as {name}, which is {known.holder or 'nobody'}'s"
        gone_already = word is Word.LEAVE and not known.holder and known.last == connection
        if word is not Word.JOIN and known.holder != connection and not gone_already:
            self._report("at most one connection holds a name", said)
        if known.holder and connection in known.lost:
            self._report("who lost a name takes nothing back", said)
        if word is Word.LEAVE:
            known.holder = ""
            return
        if known.holder not in {"", connection}:
            known.lost = [*known.lost, known.holder][-REPLACED_MAX:]
        elif not known.holder:
            known.lost = []
        known.holder = known.last = connection
        known.beat_s = asyncio.get_running_loop().time()
        if (told := self._book.told.get(name)) is None or told.health is not Health.ALIVE:
            self._report("a sign of life brings back", f"{said}: {told}")

    def _known(self, name: str) -> _Name:
        """Return what is known of a name; who died is seen in the book, and a stop forgets all."""
        if self._boots != self._book.boots:
            self._boots = self._book.boots
            self._names.clear()
        known = self._names.setdefault(name, _Name())
        if name not in self._book.told:
            known.holder = ""
        return known

    # ------------------------------------------------------------ whenever time is about to pass

    def _look(self) -> None:
        """Check that the silent are found in time, and none before."""
        self._compare()
        now = asyncio.get_running_loop().time()
        for name, told in self._book.told.items():
            silent_s = now - self._known(name).beat_s
            if told.health is Health.ALIVE and silent_s > _LIMITS.silent_s + _SLACK_S:
                self._report("the silent are suspect", f"{name} is alive after {silent_s:g} s of silence")
            if told.health is Health.SUSPECT and silent_s < _LIMITS.silent_s - _SLACK_S:
                self._report("only the silent are suspect", f"{name} is suspect after {silent_s:g} s of silence")
            if told.health is Health.SUSPECT and now > told.since_s + _LIMITS.grace_s + _SLACK_S:
                self._report("grace ends", f"{name} has been suspect since {told.since_s:g} s; it is {now:g} s")

    def _compare(self) -> None:
        """Check that the notes tell what is shown."""
        shown = {
            child.name: (child.look.health, child.incarnation)
            for child in self._participants.view().children
            if child.state == "running" and child.look is not None
        }
        told = {name: (told.health, told.incarnation) for name, told in self._book.told.items()}
        if shown != told:
            self._report("notes tell who is there", f"{told} was noted, {shown} is there")

    def _state(self) -> object:
        return self._participants.view(), self._book.notes

    def _report(self, rule: str, what: str) -> None:
        self._world.report(Violated(rule, what))
