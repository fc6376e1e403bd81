"""The kernel scenario: in-memory actors under every schedule: one letter at a time, in order, none lost."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any, Final

from turnkeeper.actors.volatile import ActorRef, Actors
from turnkeeper.kernel.errors import ActorStopped, MailboxFull, Refused, ShuttingDown
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life"]

_ROOMS: Final = (1, 4, 12, 12, 400)
"""How many letters may wait, for each actor; the last one's mailbox takes a whole flood."""
_SENDERS: Final = 3
_LETTERS: Final = 10
_PAUSES_S: Final = (None, 0.0, 0.01, 5.0)
_SHUTDOWNS_S: Final = (30.0, 30.0, 1.0, 0.0)
"""The last two are less than the longest pause, so closing cancels handlers, with letters behind them."""
_PACE_S: Final = 0.5
_FLOOD: Final = 65, 365
"""Letters at once: more than an actor handles in a run, and now and then more than a worker does before it yields."""

_CRASH: Final = 0.02
_STOP: Final = 0.02
_ASK: Final = 0.5
_TURN: Final = 0.3
_IDLE: Final = 0.5
_HASTY: Final = 0.25
_FLOODED: Final = 0.03

_Letter = tuple[int, int, float | None, bool]
"""Its sender, its number, how long its handler pauses, and whether it crashes."""


async def life(world: World) -> None:
    """Let senders tell and ask a few actors, of which some wait, some crash and some are stopped; then close.

    Some runs close when all is done, some in the middle of the work, and hasty ones while the senders go on.
    """
    crowd = _Crowd(world)
    draw = world.chance.random
    hasty = draw() < _HASTY
    shutdown_s = _SHUTDOWNS_S[int(draw() * len(_SHUTDOWNS_S))]
    async with asyncio.TaskGroup() as group, Actors(shutdown_s=shutdown_s) as actors:
        crowd.spawn(actors)
        pace_s = _PACE_S if hasty else 0.0
        senders = [group.create_task(crowd.send(sender, pace_s)) for sender in range(_SENDERS)]
        if draw() < _FLOODED:
            senders.append(group.create_task(crowd.flood(_SENDERS)))
        if hasty:
            await asyncio.sleep(draw())
        else:
            for sender in senders:
                await sender
            if draw() < _IDLE:
                await actors.wait_until_idle()
                crowd.check_idle()
        crowd.closing = True  # nobody else has a turn before leaving the block refuses letters
    crowd.check(actors)


class _Crowd:
    """What the actors do, and what is remembered of it."""

    def __init__(self, world: World) -> None:
        self.closing = False
        self._draw = world.chance.random
        self._world = world
        self._refs: list[ActorRef[_Letter, tuple[int, int]]] = []
        self._inside: set[int] = set()
        self._raised: set[int] = set()
        self._sent = 0
        self._begun = 0
        self._latest: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._asked: list[tuple[_Letter, asyncio.Future[tuple[int, int]]]] = []

    def _report(self, rule: str, what: str) -> None:
        self._world.report(Violated(rule, what))

    # ------------------------------------------------------------ actors

    def spawn(self, actors: Actors) -> None:
        """Bring the actors to life, and look at them whenever time is about to pass."""
        self._refs = [
            actors.spawn(self.handler(number), name=str(number), mailbox_len_max=room)
            for number, room in enumerate(_ROOMS)
        ]
        loop: Any = asyncio.get_running_loop()
        loop.before_time_passes.append(self._look)

    def handler(self, actor: int) -> Any:
        """Return the handler of one actor."""

        async def handle(letter: _Letter) -> tuple[int, int]:
            sender, number, pause_s, crash = letter
            self._check_beginning(actor, sender, number)
            self._inside.add(actor)
            try:
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
                if crash:
                    self._raised.add(actor)
                    raise ArithmeticError(number)
                return sender, number
            finally:
                self._inside.discard(actor)

        return handle

    def _check_beginning(self, actor: int, sender: int, number: int) -> None:
        """Check that this letter may begin now, and count it."""
        self._begun += 1
        if actor in self._inside:
            self._report("one letter at a time", f"actor {actor} is inside two")
        latest, self._latest[actor, sender] = self._latest[actor, sender], number
        if number <= latest:
            self._report("order of each sender", f"actor {actor} got letter {number} of {sender} after {latest}")
        if actor in self._raised:
            self._report("a crashed actor handles no letter", f"actor {actor} got letter {number} of {sender}")

    def _look(self) -> None:
        for actor, ref in enumerate(self._refs):
            if ref.letters and actor not in self._inside and not ref.stopped:
                self._report("no idle actor has mail while time passes", f"actor {actor}: {len(ref.letters)}")

    # ------------------------------------------------------------ senders

    async def send(self, sender: int, pace_s: float) -> None:
        """Send letters: tells, and asks, of which some are cancelled, and some are left open until all is over."""
        draw = self._draw
        for number in range(1, _LETTERS + 1):
            actor = int(draw() * len(_ROOMS))
            letter = (sender, number, _PAUSES_S[int(draw() * len(_PAUSES_S))], draw() < _CRASH)
            reply = self._post(actor, letter, asks=draw() < _ASK)
            if reply is not None:
                await self._wait(reply)
            if draw() < _STOP:
                self._refs[actor].stop()
            if draw() < _TURN:
                await asyncio.sleep(pace_s)

    async def flood(self, sender: int) -> None:
        """Send the last actor many letters at once."""
        fewest, most = _FLOOD
        for number in range(1, fewest + int(self._draw() * (most - fewest)) + 1):
            self._post(len(_ROOMS) - 1, (sender, number, None, False), asks=False)

    def _post(self, actor: int, letter: _Letter, *, asks: bool) -> asyncio.Future[tuple[int, int]] | None:
        """Send one letter; return the future of its reply if it asks and is taken."""
        ref, reply = self._refs[actor], None
        try:
            if asks:
                reply = ref.ask(letter)
                self._asked.append((letter, reply))
            else:
                ref.tell(letter)
        except Refused as refusal:
            self._check_refusal(actor, refusal)
            return None
        self._sent += 1
        if self.closing:
            self._report("no letter is taken while the actors close", f"actor {actor} took {letter}")
        if ref.stopped:
            self._report("a stopped actor takes no letter", f"actor {actor} took {letter}")
        if ref.letters and len(ref.letters) > _ROOMS[actor]:
            self._report("no more letters wait than may", f"{len(ref.letters)} wait for actor {actor}")
        return reply

    def _check_refusal(self, actor: int, refusal: Refused) -> None:
        """Check that a refusal says why."""
        ref = self._refs[actor]
        if ref.stopped:
            right = isinstance(refusal, ActorStopped)
        elif self.closing:
            right = isinstance(refusal, ShuttingDown)
        else:
            right = isinstance(refusal, MailboxFull) and len(ref.letters or ()) == _ROOMS[actor]
        if not right:
            self._report("a refusal says why", f"actor {actor} (stopped: {ref.stopped}, {ref.letters}): {refusal!r}")

    async def _wait(self, reply: asyncio.Future[tuple[int, int]]) -> None:
        """Wait for a reply, give it up, or leave it open."""
        patience = self._draw()
        if patience < 0.6:  # noqa: PLR2004 - most wait
            with suppress(ArithmeticError, ActorStopped, ShuttingDown):
                await reply
        elif patience < 0.8:  # noqa: PLR2004 - half of the others give up: at once, or a little later
            if patience < 0.7:  # noqa: PLR2004
                await asyncio.sleep(0)
            reply.cancel()

    # ------------------------------------------------------------ in the end

    def check_idle(self) -> None:
        """Check that nothing goes on: nobody sends any more, and all have waited for the actors."""
        if self._inside or any(ref.letters for ref in self._refs):
            self._report("waiting until idle is waiting for every letter", f"{self._inside} are inside a letter")

    def check(self, actors: Actors) -> None:
        """Check that every letter ended in exactly one way, and that every ask was answered."""
        counted = actors.statistics()
        if counted.letters_done + counted.letters_dead != self._sent:
            self._report("every letter is done or dead", f"{self._sent} sent, {counted}")
        if counted.letters_done > self._begun:
            self._report("every letter is done or dead", f"{self._begun} begun, {counted}")
        if counted.crashes != len(self._raised):
            self._report("an actor crashes when its handler raises", f"{len(self._raised)} raised, {counted}")
        for letter, reply in self._asked:
            self._check_reply(letter, reply)
        if counted.ready or counted.running or counted.workers:
            self._report("no task is left behind", str(counted))

    def _check_reply(self, letter: _Letter, reply: asyncio.Future[tuple[int, int]]) -> None:
        if not reply.done():
            self._report("every ask resolves", f"{letter} is open after closing")
        elif not reply.cancelled():
            error = reply.exception()
            if isinstance(error, ArithmeticError):
                right = letter[3] and error.args == letter[1:2]
            else:
                right = isinstance(error, ActorStopped | ShuttingDown) if error else reply.result() == letter[:2]
            if not right:
                self._report("every ask has its own reply", f"{letter} got {error or reply.result()!r}")
