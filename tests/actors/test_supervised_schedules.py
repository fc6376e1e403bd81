"""Supervised actors under every schedule, whatever their supervisor does, and whenever."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from test_dispatcher import SEEDS, ShuffledLoop, run_shuffled

from turnkeeper.actors.volatile import Actors, ChildRef, Poison
from turnkeeper.kernel.errors import ActorStopped, LetterDead, MailboxFull, ShuttingDown


class Nursery:
    """Supervised actors, whose supervisor starts, stops, retires and replays by the seed, within `exited` or later."""

    def __init__(self, loop: ShuffledLoop) -> None:
        self.loop = loop
        self.random = loop.random
        self.actors = Actors(shutdown_s=2)
        self.children: list[ChildRef[tuple[int, int], int]] = []
        self.inside: set[int] = set()
        self.begun: dict[tuple[int, int], list[int]] = {}
        self.replies: list[asyncio.Future[int]] = []
        self.stops: list[asyncio.Future[None]] = []
        self.replayed: set[int] = set()
        self.violated: list[str] = []
        self.accepted = 0

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def check(self, holds: bool, what: str) -> None:
        if not holds:  # an assertion in a handler would only be one more crash
            self.violated.append(what)

    def spawn(self) -> None:
        for place in range(4):
            policy = Poison(retries_max=place % 3)
            self.children.append(
                self.actors.child(lambda place=place: self.build(place), mailbox_len_max=8, poison=policy)
            )
            self.start(place)

    def build(self, place: int) -> Callable[[tuple[int, int]], Coroutine[Any, Any, int]]:
        if self.chance(0.1):
            msg = "no start"
            raise OSError(msg)
        broken: list[bool] = []

        async def handle(message: tuple[int, int]) -> int:
            self.check(not broken, "a half-changed state in use")
            self.check(place not in self.inside, "two at a time")
            self.inside.add(place)
            broken.append(True)
            sender, number = message
            numbers = self.begun.setdefault((place, sender), [])
            self.check(place in self.replayed or not numbers or number >= numbers[-1], "out of order")
            numbers.append(number)
            try:
                if self.chance(0.4):
                    await asyncio.sleep(self.random.choice([0, 0, 0.01, 3]))
                if self.chance(0.15):
                    raise ValueError
            finally:
                self.inside.discard(place)
            broken.clear()
            return number

        return handle

    def start(self, place: int) -> None:
        with contextlib.suppress(OSError, RuntimeError, ActorStopped, ShuttingDown):
            self.children[place].start(lambda _exit: self.exited(place))

    def exited(self, place: int) -> None:
        self.check(not self.children[place].up, "told while it is up")
        self.check(place not in self.inside, "told before it ended")
        if self.chance(0.5):
            self.start(place)
        elif self.chance(0.7):
            self.loop.call_later(self.random.choice([0, 0.01, 1]), self.start, place)
        if self.chance(0.1):
            self.stop(self.random.randrange(4))

    def stop(self, place: int) -> None:
        stopping = self.children[place].stop(self.random.choice([0, 0.01, 5]))
        if stopping is not None:
            self.stops.append(asyncio.ensure_future(stopping))
        self.check(not self.children[place].up, "up after a stop")
        self.check(stopping is not None or place not in self.inside, "inside a letter after a stop")

    async def upset(self) -> None:
        for _ in range(60):
            place = self.random.randrange(4)
            if self.chance(0.2):
                self.stop(place)
            elif self.chance(0.6):
                self.start(place)
            elif self.chance(0.3):
                self.loop.cancel_a_worker()
            elif self.chance(0.03):
                self.children[place].retire()
            elif self.chance(0.3) and self.stops:
                self.random.choice(self.stops).cancel()
            elif self.chance(0.3):
                with contextlib.suppress(ActorStopped, ShuttingDown):
                    self.replayed.add(place)
                    self.children[place].replay(2)
            await asyncio.sleep(self.random.choice([0, 0, 0.01, 0.5]))

    async def send(self, sender: int) -> None:
        for number in range(60):
            child = self.random.choice(self.children)
            with contextlib.suppress(MailboxFull, ActorStopped, ShuttingDown):
                if self.chance(0.5):
                    self.replies.append(child.ask((sender, number)))
                else:
                    child.tell((sender, number))
                self.accepted += 1
            if self.chance(0.03) and self.replies:
                self.random.choice(self.replies).cancel()
            if self.chance(0.3):
                await asyncio.sleep(self.random.choice([0, 0.01, 0.2]))


@pytest.mark.parametrize("seed", SEEDS)
def test_supervised_actors_keep_every_letter_whatever_their_supervisor_does(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is done or dead, each ask answered, in order, one incarnation at a time, and no half-changed one goes on."""
    caplog.set_level(logging.CRITICAL, "turnkeeper")

    async def main(loop: ShuffledLoop) -> None:
        nursery = Nursery(loop)
        async with nursery.actors:
            nursery.spawn()

            def nothing_waits() -> None:
                assert nursery.actors.statistics().ready == 0

            loop.before_sleep = nothing_waits
            busy = [asyncio.ensure_future(work) for work in (nursery.upset(), *map(nursery.send, range(3)))]
            await asyncio.sleep(loop.random.choice([0, 0.5, 4, 40]))
        await asyncio.gather(*busy)
        await asyncio.gather(*nursery.stops, return_exceptions=True)

        assert nursery.violated == []
        statistics = nursery.actors.statistics()
        assert statistics.letters_done + statistics.letters_dead == nursery.accepted
        assert (statistics.ready, statistics.running, statistics.workers, statistics.down) == (0, 0, 0, 0)
        answers = {type(answer) for answer in await asyncio.gather(*nursery.replies, return_exceptions=True)}
        assert answers <= {int, ActorStopped, LetterDead, ShuttingDown, asyncio.CancelledError}
        causes = {letter.error for letter in nursery.actors.dead_letters()}
        assert causes <= {"", "ValueError", "CancelledError"}

    run_shuffled(seed, main)
