"""The bare limit: the least that is still an actor, a deque and one task that is parked on a future.

No bounds, no crash policy, no stopping, no counting, no fairness between actors. What an actor runtime costs is its
distance from this.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Self

import msgspec


class _Ask(msgspec.Struct, gc=False):
    message: Any
    reply: asyncio.Future[Any]


class BareActor:
    """A deque, and the task that empties it."""

    __slots__ = ("_handler", "_letters", "_loop", "_waker", "task")

    def __init__(self, handler: Callable[[Any], Coroutine[Any, Any, Any]], loop: asyncio.AbstractEventLoop) -> None:
        """Start the task."""
        self._handler = handler
        self._loop = loop
        self._letters: deque[Any] = deque()
        self._waker: asyncio.Future[None] | None = None
        self.task = loop.create_task(self._run())

    def tell(self, message: Any) -> None:
        """Append a message and wake the task."""
        self._letters.append(message)
        waker = self._waker
        if waker is not None:
            self._waker = None
            waker.set_result(None)

    def ask(self, message: Any) -> asyncio.Future[Any]:
        """Append a message, wake the task, and return the future of the reply."""
        reply = self._loop.create_future()
        self.tell(_Ask(message, reply))
        return reply

    async def _run(self) -> None:
        letters, handler = self._letters, self._handler
        while True:
            while letters:
                letter = letters.popleft()
                if type(letter) is _Ask:
                    letter.reply.set_result(await handler(letter.message))
                else:
                    await handler(letter)
            self._waker = waker = self._loop.create_future()
            await waker


class BareActors:
    """Bare actors with the face of `turnkeeper.actors.volatile.Actors`."""

    def __init__(self) -> None:
        """Start without any."""
        self._actors: list[BareActor] = []

    async def __aenter__(self) -> Self:
        """Enter."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the tasks."""
        tasks = [actor.task for actor in self._actors]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, handler: Callable[[Any], Coroutine[Any, Any, Any]]) -> BareActor:
        """Return a new actor."""
        actor = BareActor(handler, asyncio.get_running_loop())
        self._actors.append(actor)
        return actor
