"""The kernel scenario: in-memory actors under every schedule: one letter at a time, in order, none lost."""

import asyncio
from collections import defaultdict
from typing import Any

from turnkeeper.actors.volatile import ActorRef, Actors
from turnkeeper.kernel.errors import ActorStopped, MailboxFull, ShuttingDown
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life"]

_ACTORS = 5
_SENDERS = 3
_LETTERS = 10
_ROOM = 12
_CRASH = 0.02
_STOP = 0.02


async def life(world: World) -> None:
    """Let senders tell and ask a few actors, of which some wait, some crash and some are stopped; then close."""
    crowd = _Crowd(world)
    async with Actors(shutdown_s=30.0) as actors:
        refs = [
            actors.spawn(crowd.handler(number), name=str(number), mailbox_len_max=_ROOM) for number in range(_ACTORS)
        ]
        crowd.watch(refs)
        async with asyncio.TaskGroup() as senders:
            for sender in range(_SENDERS):
                senders.create_task(crowd.send(sender, refs))
        if crowd.chance.random() < 0.5:  # noqa: PLR2004 - half of the runs close in the middle of the work
            await actors.wait_until_idle()
    crowd.check(actors)


class _Crowd:
    """What the actors do, and what is remembered of it."""

    def __init__(self, world: World) -> None:
        self.chance = world.chance
        self._report = world.report
        self._inside: set[int] = set()
        self._sent = 0
        self._begun = 0
        self._latest: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._replies: list[asyncio.Future[Any]] = []

    def handler(self, actor: int) -> Any:
        """Return the handler of one actor: a letter is (sender, number, pause, crash)."""

        async def handle(letter: tuple[int, int, float | None, bool]) -> tuple[int, int]:
            sender, number, pause_s, crash = letter
            if actor in self._inside:
                self._report(Violated("one letter at a time", f"actor {actor} is inside two"))
            self._inside.add(actor)
            try:
                self._begun += 1
                if number <= self._latest[actor, sender]:
                    said = f"actor {actor} got letter {number} of {sender} after {self._latest[actor, sender]}"
                    self._report(Violated("order of each sender", said))
                self._latest[actor, sender] = number
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
                if crash:
                    raise ArithmeticError(number)
                return sender, number
            finally:
                self._inside.discard(actor)

        return handle

    def watch(self, refs: list[ActorRef[Any, Any]]) -> None:
        """Look whenever time is about to pass."""
        loop: Any = asyncio.get_running_loop()

        def look() -> None:
            for number, ref in enumerate(refs):
                if ref.letters and number not in self._inside and not ref.stopped:
                    raise Violated("no idle actor has mail while time passes", f"actor {number}: {len(ref.letters)}")

        loop.before_time_passes.append(look)

    async def send(self, sender: int, refs: list[ActorRef[Any, Any]]) -> None:
        """Send letters: tells and asks, some of which nobody waits for in the end."""
        draw = self.chance.random
        for number in range(1, _LETTERS + 1):
            ref = refs[int(draw() * len(refs))]
            letter = (sender, number, (None, 0.0, 0.01, 5.0)[int(draw() * 4)], draw() < _CRASH)
            try:
                if draw() < 0.5:  # noqa: PLR2004 - half are asks
                    ref.tell(letter)
                    self._sent += 1
                else:
                    await self._ask(ref, letter, patient=draw() < 0.8)  # noqa: PLR2004 - the others give up
            except (ActorStopped, MailboxFull, ShuttingDown):
                pass
            if draw() < _STOP:
                ref.stop()
            if draw() < 0.3:  # noqa: PLR2004 - now and then the others have a turn
                await asyncio.sleep(0)

    async def _ask(self, ref: ActorRef[Any, Any], letter: Any, *, patient: bool) -> None:
        reply = ref.ask(letter)
        self._sent += 1
        self._replies.append(reply)
        if not patient:
            reply.cancel()
            return
        try:
            if await reply != letter[:2]:
                raise Violated("every ask has its own reply", f"{letter[:2]} got {reply.result()}")
        except ArithmeticError:
            pass  # its own crash

    def check(self, actors: Actors) -> None:
        """Check that every letter ended in exactly one way, and that every ask was answered."""
        counted = actors.statistics()
        if counted.letters_done + counted.letters_dead != self._sent:
            raise Violated("every letter is done or dead", f"{self._sent} sent, {counted}")
        if counted.letters_done > self._begun:
            raise Violated("every letter is done or dead", f"{self._begun} begun, {counted}")
        if not all(reply.done() for reply in self._replies):
            raise Violated("every ask resolves", "an ask is open after closing")
        if counted.ready or counted.running or counted.workers:
            raise Violated("no task is left behind", str(counted))
