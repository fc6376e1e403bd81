"""Letters: the envelope of an ask, what is remembered of a letter that is delivered again, and where letters end."""

import asyncio
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

__all__ = ["Ask", "DeadLetter", "DeadLetterReason", "Delivery", "Ledger"]

DEAD_LETTERS_MAX: Final = 1_000


class DeadLetterReason(StrEnum):
    """Why an accepted letter was not done."""

    CRASHED = "crashed"  # its own handler raised, or was cancelled
    STOPPED = "stopped"  # its actor stopped, or crashed, before the letter's turn
    SHUTTING_DOWN = "shutting_down"  # the time to finish was over


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted letter that was not done.

    Args:
        actor: the name of the actor that it was sent to.
        message: what was sent.
        reason: why it was not done.
        error: type of what its handler raised last; empty where it was not begun.
        crashes: incarnations of a supervised actor that it ended, in all its lives.
        replays: how often it was replayed before.
    """

    actor: str
    message: Any
    reason: DeadLetterReason
    error: str = ""
    crashes: int = 0
    replays: int = 0


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a letter that is delivered again. It stands in the place of the reply's future.

    So a letter that is delivered for the first time, as nearly all are, carries and costs nothing of this.

    Args:
        reply: who waits, or None for a tell and for what is replayed.
        attempts: incarnations that it ended since it was sent or replayed.
        crashes: incarnations that it ended in all its lives.
        replays: how often it was replayed.
    """

    reply: asyncio.Future[Any] | None = None
    attempts: int = 0
    crashes: int = 0
    replays: int = 0

    def done(self) -> bool:
        """Say whether nobody waits, or not any more."""
        return self.reply is None or self.reply.done()

    def set_result(self, result: Any) -> None:
        """Answer who waits."""
        if self.reply is not None:
            self.reply.set_result(result)

    def set_exception(self, error: Exception) -> None:
        """Refuse who waits."""
        if self.reply is not None:
            self.reply.set_exception(error)


class Ask(msgspec.Struct, gc=False):
    """The envelope of a letter that wants a reply. A tell needs none: its message is the letter.

    Not tracked by the garbage collector, so whoever holds one lets go of it: a mailbox that is buried, a worker that
    parks or has seen a crash.
    """

    message: Any
    reply: asyncio.Future[Any] | Delivery


class Ledger:
    """Where accepted letters end; each is counted once, as done (its handler returned) or as dead."""

    __slots__ = ("actors", "crashes", "dead_letters", "letters_dead", "letters_done")

    def __init__(self) -> None:
        """Start with nothing counted."""
        self.actors = 0
        self.crashes = 0
        self.letters_done = 0
        self.letters_dead = 0
        self.dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_MAX)

    def bury(self, letter: DeadLetter) -> None:
        """Count a letter as dead, and list it."""
        self.letters_dead += 1
        self.dead_letters.append(letter)

    def revive(self, letters: Iterable[DeadLetter]) -> None:
        """Take back that these letters are dead: they are about to be replayed."""
        revived = {id(letter) for letter in letters}  # messages may have any idea of equality
        self.letters_dead -= len(revived)
        left = [letter for letter in self.dead_letters if id(letter) not in revived]
        self.dead_letters = deque(left, maxlen=DEAD_LETTERS_MAX)
