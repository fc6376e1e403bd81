"""Bugs of mailboxes: two workers in one actor, lost wakeups, letters that end nowhere."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["MAILBOXES"]

_dispatcher = partial(Mutant, where="actors.dispatcher", tries=("kernel",))
_volatile = partial(Mutant, where="actors.volatile", tries=("kernel",))

MAILBOXES: Final[tuple[Mutant, ...]] = (
    _volatile(
        name="an empty mailbox is taken for an idle actor, so a second worker enters",
        edits=(
            (
                'are closing or closed.\n        """\n        letters = self.letters\n        if letters is None:',
                'are closing or closed.\n        """\n        letters = self.letters\n        if not letters:',
            ),
        ),
        point="14: several at once in one actor",
    ),
    _volatile(
        name="a tell is refused one letter too late, so a stopped actor takes one more",
        edits=(
            (
                "elif len(letters) >= self.room:\n            raise self.refusal()\n        letters.append(message)",
                "elif len(letters) > self.room:\n            raise self.refusal()\n        letters.append(message)",
            ),
        ),
    ),
    _dispatcher(
        name="letters of a stopped actor are dropped without a word",
        edits=(
            (
                "            self.bury_waiting(DeadLetterReason.STOPPED)",
                "            self.room = 0\n            self.letters = None",
            ),
        ),
        point="14: letters silently lost",
    ),
    _dispatcher(
        name="an ask is not answered when the actors close",
        edits=(
            (
                "            if not letter.reply.done():  # done: the asker was cancelled\n                if error is None:",
                (
                    "            if not letter.reply.done() and reason is not DeadLetterReason.SHUTTING_DOWN:\n"
                    "                if error is None:"
                ),
            ),
        ),
        point="14: asks that hang",
    ),
    _dispatcher(
        name="an ask is not answered when its actor stops",
        edits=(
            (
                "            if not letter.reply.done():  # done: the asker was cancelled\n                if error is None:",
                "            if error is not None and not letter.reply.done():\n                if error is None:",
            ),
        ),
        point="14: asks that hang",
    ),
    _dispatcher(
        name="wait_until_idle returns while an actor is inside a letter",
        edits=(
            (
                "        while self.ready or self.running:\n            waiter",
                "        while self.ready:\n            waiter",
            ),
        ),
    ),
    _dispatcher(
        name="a worker parks on what came while it gave the loop a turn",
        edits=(("                if self.ready:\n                    continue\n", ""),),
    ),
    _dispatcher(
        name="a worker woken in place of a dispatch forgets that it was",
        edits=(
            (
                "            if await waker:  # woken in place of a dispatch\n                self.pending = False",
                "            await waker",
            ),
        ),
    ),
    _dispatcher(
        name="a ready actor waits for another one's handler",
        edits=(("            if ready and not self.pending:\n                self._queue_dispatch()\n", ""),),
    ),
    _dispatcher(
        name="a mailbox is lent to the next actor while the last one still has it",
        edits=(("                actor.letters = None\n                self.spare", "                self.spare"),),
    ),
    _dispatcher(
        name="closing forgets the letters behind one that is being handled",
        edits=(
            (
                "        for actor in (*self.ready, *self.running.values()):\n            actor.bury_waiting",
                "        for actor in self.ready:\n            actor.bury_waiting",
            ),
        ),
        point="14: letters silently lost",
    ),
    _dispatcher(
        name="letters that wait behind a run of one actor are left to nobody",
        edits=(
            (
                "            if letters:\n                ready.append(actor)",
                "            if letters:\n                self.pending = False",
            ),
        ),
    ),
    _dispatcher(
        name="letters are handled newest first",
        edits=(("                    letter = letters.popleft()", "                    letter = letters.pop()"),),
    ),
    _dispatcher(
        name="a crashed actor stays in use, half-changed",
        edits=(
            (
                "crash if isinstance(crash, Exception) else None)\n        self.stop()",
                "crash if isinstance(crash, Exception) else None)",
            ),
        ),
        point="14: a crash leaves a half-changed actor in use",
    ),
    _dispatcher(
        name="an asker that gave up crashes the actor",
        edits=(
            (
                (
                    "                        if not letter.reply.done():  # done: the asker was cancelled\n"
                    "                            letter.reply.set_result(reply)"
                ),
                "                        letter.reply.set_result(reply)",
            ),
        ),
        point="14: a caller's cancellation does harm",
    ),
    _dispatcher(
        name="an actor that is inside a letter takes more while the actors close",
        edits=(
            (
                "        for actor in (*self.ready, *self.running.values()):\n            actor.room = 0",
                "        for actor in self.ready:\n            actor.room = 0",
            ),
        ),
    ),
)
