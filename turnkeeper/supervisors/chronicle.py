"""Chronicles: what is kept of supervision, and what was wanted when the last runtime ended."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import EVENTS_MAX, ChildEventKind, Note, noted, verb_noted

__all__ = ["Chronicle", "Own", "Recorded", "Unrecorded"]

_NONE: Final[Mapping[str, Desired]] = MappingProxyType({})
_NOTES_MAX: Final = 20
_FALLS_MAX: Final = 100
"""Falls of a runtime's own parts that wait until they can be written."""

_NOTES_S: Final = 1.0
"""Notes of one child within so long; what is more is counted, and said with the next one that is kept."""


class Chronicle(Protocol):
    """Keeps what a tree is told, and what happens in it."""

    def desired(self, path: str) -> Desired:
        """Return what is wanted of a child."""
        ...

    async def say(self, path: str, verb: Verb, note: Note) -> Desired:
        """Keep what is wanted from now on, and return it; durable when this returns.

        Raises:
            VerbRefused: the verb means nothing to what is wanted now.
        """
        ...

    @property
    def unkept(self) -> Mapping[str, Desired]:
        """Return what is wanted and has not been kept yet."""
        ...

    def hold(self, path: str, desired: Desired) -> None:
        """Want this from now on, before it is kept: the next verb is judged by it."""
        ...

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:
        """Keep what has happened to a child; not waited for."""
        ...


class Unrecorded:
    """Remembers what is wanted while it lives, and keeps nothing else: for a tree beside no runtime."""

    def __init__(self) -> None:
        """Want everything to run."""
        self._desired: dict[str, Desired] = {}

    def desired(self, path: str) -> Desired:
        """Return what was said last."""
        return self._desired.get(path, Desired.RUNNING)

    async def say(self, path: str, verb: Verb, note: Note) -> Desired:
        """Remember it."""
        after, _ = verb_noted(path, self.desired(path), verb, note, at=0.0, boot_id=0)
        self.hold(path, after)
        return after

    @property
    def unkept(self) -> Mapping[str, Desired]:
        """Return nothing: there is nowhere to keep it."""
        return _NONE

    def hold(self, path: str, desired: Desired) -> None:
        """Remember it."""
        self._desired[path] = desired

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:
        """Keep nothing."""


class Recorded:
    """Keeps it in the runtime's store, through the one writer.

    A verb stands once this has said so. What happens is handed over and not waited for: a disk that fails costs notes,
    never a restart. Of a child that falls all the time only so many notes a second are written.
    """

    def __init__(self, node: Node, desired: dict[str, Desired], unkept: Mapping[str, Desired] = _NONE) -> None:
        """Keep for a runtime; `desired` is what its store holds, `unkept` what its last boot could not keep."""
        self._node = node
        self._desired = desired
        self._unkept: dict[str, Desired] = {}
        self._lately: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._saying = asyncio.Lock()
        for path, wanted in unkept.items():
            self.hold(path, wanted)

    def desired(self, path: str) -> Desired:
        """Return what was said last, in this runtime or an earlier one."""
        return self._desired.get(path, Desired.RUNNING)

    async def say(self, path: str, verb: Verb, note: Note) -> Desired:
        """Commit the verb with what is wanted after it."""
        node = self._node
        async with self._saying:  # each verb is judged by what the one before it has left
            before = self.desired(path)
            at, boot_id = node.clock.time(), node.lease.boot_id
            after, records = verb_noted(path, before, verb, note, at=at, boot_id=boot_id)
            if after is not before or path in self._unkept:
                await node.persistence.commit(records)
                self._unkept.pop(path, None)
                self._desired[path] = after
            return after

    @property
    def unkept(self) -> Mapping[str, Desired]:
        """Return what the disk has refused, or was not asked yet: the next boot goes on with it."""
        return self._unkept

    def hold(self, path: str, desired: Desired) -> None:
        """Remember it; the next verb is kept also where it says the same."""
        self._desired[path] = self._unkept[path] = desired

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:
        """Hand a note to the writer, unless there were too many of this child lately."""
        node = self._node
        now = node.loop.time()
        since, count = self._lately.get(path, (now, 0))
        if now >= since + _NOTES_S:
            if count > _NOTES_MAX:
                skipped = f"{count - _NOTES_MAX} notes before this one were not kept"
                note = msgspec.structs.replace(note, reason="; ".join(filter(None, (note.reason, skipped))))
            since, count = now, 0
        self._lately[path] = since, count + 1
        self._lately.move_to_end(path)
        if len(self._lately) > EVENTS_MAX:  # names come from outside; of more paths the store keeps nothing either
            self._lately.popitem(last=False)
        if count >= _NOTES_MAX:
            return
        at, boot_id = node.clock.time(), node.lease.boot_id
        node.persistence.submit([noted(path, kind, note, incarnation=incarnation, at=at, boot_id=boot_id)], self._told)

    @property
    def open(self) -> bool:
        """Say whether what is handed over now can be written."""
        return not self._node.closing

    def _told(self, error: TurnkeeperError | None) -> None:
        if error is not None and not self._node.closing:
            self._node.log.warning("supervision.not_noted", error=str(error))


class Own(Unrecorded):
    """Keeps how a runtime's own parts fall; that they come and go with it, its boots say already.

    A writer that has crashed cannot write it: what happens until the next one is up is written then.
    """

    def __init__(self) -> None:
        """Wait for a store to keep it in."""
        super().__init__()
        self._recorded: Recorded | None = None
        self._waiting: deque[tuple[str, ChildEventKind, int, Note]] = deque(maxlen=_FALLS_MAX)

    def serve(self, recorded: Recorded) -> None:
        """Keep it here from now on, what waits included."""
        self._recorded = recorded
        while self._waiting:
            recorded.noted(*self._waiting.popleft())

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:
        """Keep a fall."""
        if kind in {ChildEventKind.STARTED, ChildEventKind.ENDED}:
            return
        if self._recorded is not None and self._recorded.open:
            self._recorded.noted(path, kind, incarnation, note)
        else:
            self._waiting.append((path, kind, incarnation, note))
