"""Volatile actors: in-memory mailboxes for simulations and internals, one letter at a time per actor.

    async with Actors() as actors:
        pricing = actors.spawn(quote, name="pricing")
        pricing.tell(order)
        price = await pricing.ask(order)

Nothing here survives the process; session agents are the durable ones. Everything is for one event loop and its
thread. Handlers run in the tasks of reusable workers, so a context variable that a handler sets must be reset by it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import msgspec

from turnkeeper.actors.dispatcher import Actor, Dispatcher, Mortal
from turnkeeper.actors.letters import Ask, DeadLetter, DeadLetterReason
from turnkeeper.actors.supervised import Poison, Supervised
from turnkeeper.kernel.errors import ShuttingDown

__all__ = ["ActorRef", "Actors", "ActorsStatistics", "ChildRef", "DeadLetter", "DeadLetterReason", "Poison"]

MAILBOX_LEN_MAX: Final = 100_000
SHUTDOWN_S: Final = 5.0
POISON: Final = Poison()

Message = TypeVar("Message")
Reply = TypeVar("Reply")


class ActorsStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the actors are doing, and what became of the letters they accepted.

    Args:
        actors: spawned and not stopped, supervised and not retired.
        ready: actors that have letters and wait for a worker.
        down: supervised actors that are down while letters wait for them.
        running: actors that are inside a letter; each one that awaits something occupies a worker.
        workers: worker tasks, parked ones included.
        workers_parked: workers that wait for work.
        letters_done: letters whose handler returned.
        letters_dead: letters that were accepted and not done.
        crashes: actors, and incarnations of supervised ones, that ended because their handler raised.
    """

    actors: int
    ready: int
    down: int
    running: int
    workers: int
    workers_parked: int
    letters_done: int
    letters_dead: int
    crashes: int


class Address(Actor, Generic[Message, Reply]):
    """Where letters are sent to: `tell` and `ask`. They are handled one at a time, in the order in which they came."""

    __slots__ = ()

    def tell(self, message: Message) -> None:
        """Put a letter into the mailbox, without waiting.

        Raises:
            MailboxFull: as many letters as may wait are waiting.
            ActorStopped: the actor was stopped, or has crashed (then `__cause__` is the crash).
            ShuttingDown: the actors are closing or closed.
        """
        letters = self.letters
        if letters is None:
            letters = self.schedule()
        elif len(letters) >= self.room:
            raise self.refusal()
        letters.append(message)

    def ask(self, message: Message) -> asyncio.Future[Reply]:
        """Put a letter into the mailbox at once, and return the future of its reply, to be awaited.

        What the handler raises is raised there. Cancelling the asker only ends its waiting: the letter stays, and is
        handled. An actor that asks itself waits until the actors close.

        Raises:
            MailboxFull: as many letters as may wait are waiting.
            ActorStopped: the actor has stopped; raised by the future if it stops before the letter's turn.
            ShuttingDown: the actors are closing or closed; raised by the future if they close before the reply.
        """
        letters = self.letters
        if letters is None:
            letters = self.schedule()
        elif len(letters) >= self.room:
            raise self.refusal()
        reply: asyncio.Future[Reply] = self.dispatcher.loop.create_future()
        letters.append(Ask(message, reply))
        return reply


class ActorRef(Address[Message, Reply], Mortal):
    """One volatile actor: `tell`, `ask`, `stop` and `name`; the other attributes are the dispatcher's.

    It handles one letter at a time, in the order in which they were sent. While it has none it costs about 100 bytes
    and no task. If its handler raises, or is cancelled, the actor stops, so that nothing half-changed stays in use:
    the crash is logged as `actor.crashed`, and the letters that wait are dead.
    """

    __slots__ = ()


class ChildRef(Address[Message, Reply], Supervised):
    """One supervised actor: an `Address` whose mail outlives a crash, and a `Child` that a supervisor starts and stops.

    `tell`, `ask` and `name` as of any actor; `start`, `stop` and `retire` for its supervisor; `dead_letters` and
    `replay` for whoever mends what killed it.
    """

    __slots__ = ()


class Actors:
    """Owns volatile actors and the worker tasks that run them; use it with `async with`.

    Leaving the block refuses new letters, lets those accepted be handled for `shutdown_s`, then cancels the handlers
    that still run. So every accepted letter is done (its handler returned) or dead when the block has been left, every
    ask is answered, and no task remains. A handler that sends meanwhile gets `ShuttingDown`.
    """

    __slots__ = ("_dispatcher", "_shutdown_s")

    def __init__(self, *, shutdown_s: float = SHUTDOWN_S) -> None:
        """Make actors that take letters once the block is entered."""
        self._dispatcher = Dispatcher()
        self._shutdown_s = shutdown_s

    async def __aenter__(self) -> Self:
        """Begin to take letters, on the running event loop."""
        self._dispatcher.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. Being cancelled meanwhile cuts the time to finish short, and keeps every other promise."""
        dispatcher = self._dispatcher
        dispatcher.refuse_letters()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._shutdown_s):
                    await dispatcher.wait_until_idle()
        finally:
            await dispatcher.close()

    def spawn(
        self,
        handler: Callable[[Message], Coroutine[Any, Any, Reply]],
        *,
        name: str | None = None,
        mailbox_len_max: int = MAILBOX_LEN_MAX,
    ) -> ActorRef[Message, Reply]:
        """Return a new, idle actor. It lives as long as somebody refers to it, or a letter waits for it.

        Args:
            handler: called with one message at a time; what it returns is the reply to an ask.
            name: for errors, logs and dead letters; the handler's name if None. Names need not differ.
            mailbox_len_max: letters that may wait; one more is refused.

        Raises:
            ShuttingDown: the block was not entered yet, or is being left.
            ValueError: `mailbox_len_max` is not positive.
        """
        name = self._admit(handler, name, mailbox_len_max)
        return ActorRef(handler, name, mailbox_len_max, self._dispatcher)

    def child(
        self,
        factory: Callable[[], Callable[[Message], Coroutine[Any, Any, Reply]]],
        *,
        name: str | None = None,
        mailbox_len_max: int = MAILBOX_LEN_MAX,
        poison: Poison = POISON,
    ) -> ChildRef[Message, Reply]:
        """Return a new supervised actor, which is down until it is started. Letters wait for that.

        It lives as long as somebody refers to it, or a letter waits for it.

        Args:
            factory: called at every start; returns the handler of the new incarnation, with a state of its own.
            name: for errors, logs and dead letters; the factory's name if None. Names need not differ.
            mailbox_len_max: letters that may wait; one more is refused. What is delivered again is not counted.
            poison: what becomes of a letter whose handler crashes.

        Raises:
            ShuttingDown: the block was not entered yet, or is being left.
            ValueError: `mailbox_len_max` is not positive.
        """
        name = self._admit(factory, name, mailbox_len_max)
        return ChildRef(factory, name, mailbox_len_max, self._dispatcher, poison)

    def _admit(self, maker: object, name: str | None, mailbox_len_max: int) -> str:
        """Count a new actor in, and return its name."""
        if self._dispatcher.closing:
            raise ShuttingDown
        if mailbox_len_max < 1:
            msg = f"mailbox_len_max must be positive, not {mailbox_len_max}"
            raise ValueError(msg)
        self._dispatcher.ledger.actors += 1
        return getattr(maker, "__qualname__", type(maker).__qualname__) if name is None else name

    async def wait_until_idle(self) -> None:
        """Wait until no actor has a letter, neither waiting nor being handled; what waits for a start does not count.

        A handler that awaits something is not idle; one that waits for this waits for itself, until the actors close.
        """
        await self._dispatcher.wait_until_idle()

    def dead_letters(self) -> list[DeadLetter]:
        """Return the latest 1,000 letters that were accepted and not done, oldest first."""
        return list(self._dispatcher.ledger.dead_letters)

    def statistics(self) -> ActorsStatistics:
        """Return what the actors are doing now, and what became of the letters so far."""
        dispatcher = self._dispatcher
        ledger = dispatcher.ledger
        return ActorsStatistics(
            actors=ledger.actors,
            ready=len(dispatcher.ready),
            down=len(dispatcher.down),
            running=len(dispatcher.running),
            workers=len(dispatcher.workers),
            workers_parked=len(dispatcher.parked),
            letters_done=ledger.letters_done,
            letters_dead=ledger.letters_dead,
            crashes=ledger.crashes,
        )
