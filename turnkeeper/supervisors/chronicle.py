"""Chronicles: what is kept of supervision, and what was wanted when the last runtime ended."""

import asyncio
from typing import Final, Protocol

import msgspec

from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import ChildEventKind, Note, noted, verb_noted

__all__ = ["Chronicle", "Recorded", "Unrecorded"]

_NOTES_MAX: Final = 20
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
        self._desired[path] = after
        return after

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:
        """Keep nothing."""


class Recorded:
    """Keeps it in the runtime's store, through the one writer.

    A verb stands once this has said so. What happens is handed over and not waited for: a disk that fails costs notes,
    never a restart. Of a child that falls all the time only so many notes a second are written.
    """

    def __init__(self, node: Node, desired: dict[str, Desired]) -> None:
        """Keep for a runtime; `desired` is what its store holds."""
        self._node = node
        self._desired = desired
        self._lately: dict[str, tuple[float, int]] = {}
        self._saying = asyncio.Lock()

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
            if after is not before:
                await node.persistence.commit(records)
                self._desired[path] = after
            return after

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
        if count >= _NOTES_MAX:
            return
        at, boot_id = node.clock.time(), node.lease.boot_id
        node.persistence.submit([noted(path, kind, note, incarnation=incarnation, at=at, boot_id=boot_id)], self._told)

    def _told(self, error: TurnkeeperError | None) -> None:
        if error is not None and not self._node.closing:
            self._node.log.warning("supervision.not_noted", error=str(error))
