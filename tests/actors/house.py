"""A supervised actor to try things with: its factory, its supervisor, and what became of each message."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from turnkeeper.actors.volatile import Actors, ChildRef, Poison
from turnkeeper.kernel.supervision.child import Exit

__all__ = ["NEVER", "House", "turns_of_the_loop"]

NEVER = Poison(retries_max=0)


async def turns_of_the_loop(count: int) -> None:
    """Let everything that is ready run, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


class Incarnation:
    """A state that a crash leaves half-changed; every message is noted with the incarnation that was given it."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.number = house.built
        self.half_changed = False

    async def handle(self, message: Any) -> Any:
        """Do what the message says."""
        assert not self.half_changed
        self.half_changed = True
        self.house.seen.append((self.number, message))
        what, *rest = message if isinstance(message, tuple) else (message,)
        if what == "crash":
            raise ValueError(message)
        if what == "crash once" and message not in self.house.crashed:
            self.house.crashed.append(message)
            raise ValueError(message)
        if what == "wait":
            await self.house.gate.wait()
        if what == "swallow":
            with contextlib.suppress(asyncio.CancelledError):
                await self.house.gate.wait()
        if what == "raise":
            raise rest[0]
        self.half_changed = False
        return self.number, message


class House:
    """A factory, the supervisor that starts what it makes, and what became of all."""

    def __init__(self, actors: Actors, *, restart: bool = True, **options: Any) -> None:
        self.built = 0
        self.seen: list[tuple[int, Any]] = []
        self.crashed: list[Any] = []
        self.exits: list[Exit] = []
        self.gate = asyncio.Event()
        self.restart = restart
        self.broken: BaseException | None = None
        self.child: ChildRef[Any, Any] = actors.child(self.build, name="house", **options)

    def build(self) -> Callable[[Any], Any]:
        """Make an incarnation, unless it is broken."""
        if self.broken is not None:
            raise self.broken
        self.built += 1
        return Incarnation(self).handle

    def exited(self, exit_: Exit) -> None:
        """Start it again at once, or not."""
        self.exits.append(exit_)
        if self.restart:
            self.child.start(self.exited)

    def start(self) -> "ChildRef[Any, Any]":
        """Start it."""
        self.child.start(self.exited)
        return self.child

    def messages(self) -> list[Any]:
        """Return what was begun, in order."""
        return [message for _, message in self.seen]
