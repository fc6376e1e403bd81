"""Supervised actors: an incarnation crashes and its mail stays; what it died of is tried again, then set aside.

    down ---- start ----> up       the factory makes the handler; what waits is handled, oldest first
    up ------ a crash --> down     the letter is put back to the head, or set aside; `exited` is told, and may start it
    up ------ stop -----> down     after the letter that it is inside of

While it is down, letters wait. Its place in `ready` is left to it where a stop takes a scheduled actor down: searching
for it would make stopping a tree quadratic. The worker that gets there meets `_down` in place of the handler.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from turnkeeper.actors.dispatcher import Actor, Dispatcher
from turnkeeper.actors.letters import Ask, DeadLetter, DeadLetterReason, Delivery
from turnkeeper.actors.node import logger
from turnkeeper.actors.places import stands_at
from turnkeeper.kernel.errors import ActorStopped, LetterDead, ShuttingDown
from turnkeeper.kernel.supervision.child import Exit, Exited

__all__ = ["Poison", "Supervised"]

Handler = Callable[[Any], Coroutine[Any, Any, Any]]


class Poison(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a letter that its incarnation did not survive.

    Args:
        retries_max: later incarnations that it is delivered to, ahead of all that wait; then it is dead.
        replays_max: how often one letter may be replayed, each time with its retries.
        dead_letters_max: dead letters kept for a replay, an actor; one more drops the oldest.
    """

    retries_max: int = 1
    replays_max: int = 3
    dead_letters_max: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: a value is negative; the message names it.
        """
        for name in self.__struct_fields__:
            if (value := getattr(self, name)) < 0:
                msg = f"{name} must be zero or more, not {value}"
                raise ValueError(msg)


LAST_WORDS_S: Final = 1.0
"""How long a handler that was cut off may take to clean up before its actor goes down without it."""

_log: Final = logger()

_TRIED_AGAIN: Final = (Exception, asyncio.CancelledError)
"""What ends the process is not: its loop comes back to life to close."""


class _Down(Exception):
    """A worker came to an actor that is down."""


async def _down(_message: Any) -> None:
    raise _Down


async def _down_in_ready(_message: Any) -> None:
    """Be down, with a place in `ready` that was left to it."""
    raise _Down


_NOTHING: Final[deque[Any]] = deque(maxlen=0)
"""What a worker goes on with where the actor has seen to its own mailbox."""


class Supervised(Actor):
    """An actor whose mailbox outlives its incarnations. It is a `Child`: a supervisor says when the next one comes up.

    The factory builds the state of each, so nothing that a crash left half-changed stays in use. Order: letters are
    handled in the order in which they came, through any number of crashes, but for what is set aside as dead. A letter
    may be begun more often than once, by one incarnation after the other and never by two at a time.
    """

    __slots__ = ("_dead", "_exited", "_factory", "_poison", "_stopping")

    def __init__(
        self, factory: Callable[[], Handler], name: str, room: int, dispatcher: Dispatcher, poison: Poison
    ) -> None:
        """Make an actor that is down."""
        super().__init__(_down, name, room, dispatcher)
        self._factory = factory
        self._poison = poison
        self._exited: Exited | None = None  # whom to tell; None while it is down, or on its way
        self._stopping: asyncio.Future[None] | None = None  # it goes down after the letter that it is inside of
        self._dead: deque[DeadLetter] | None = None

    @property
    def up(self) -> bool:
        """Say whether an incarnation is up and not on its way down."""
        return self._exited is not None

    def start(self, exited: Exited) -> None:
        """Bring an incarnation up, at once; what waits is handled from now on. May be called from within `exited`.

        Args:
            exited: told when a crash has ended this incarnation: once, at once, and never after a `stop` or `retire`,
                nor once the actors are closed. What it raises is logged as `supervisor.crashed`.

        Raises:
            Exception: what the factory raised. Nothing has come up, and the letters go on waiting.
            RuntimeError: it is up, or still on its way down. Whoever has started that goes on being told.
            ActorStopped: it was retired.
            ShuttingDown: the actors are closed, or not open.
        """
        dispatcher = self.dispatcher
        if self._exited is not None or self._stopping is not None or self.stopped or dispatcher.closed:
            raise self._why_not_started()
        handler: Handler = self._factory()
        if self._exited is not None or self.stopped:  # by now the factory may have done anything
            raise self._why_not_started()
        left_in_ready = self.handler is _down_in_ready
        self.handler = handler
        self._exited = exited
        self.crash = None
        if self.letters:
            dispatcher.down.discard(self)
            if not left_in_ready:
                dispatcher.ready.append(self)
                if not dispatcher.pending:
                    dispatcher.request_dispatch()

    def stop(self, shutdown_s: float) -> Coroutine[Any, Any, None] | None:
        """Bring the incarnation down: at once, None, unless it is inside a letter. Letters wait for the next one.

        It begins no further letter even where nobody awaits the result. The letter that it is inside of may finish
        within `shutdown_s`; then its handler is cancelled, and the letter has not survived it (`Poison`). Cancelling
        the awaiter cuts the time short, and keeps the promise that nothing is left. A handler that stops its own actor
        gets None: it cannot wait for itself.

        A handler that swallows its cancellation for a second is given up, and named in the log: the actor is down, and
        may be started again, while that one letter goes on in the handler that has it. It is tried no more.
        """
        if self._exited is None and self._stopping is None and not self.stopped:
            return None
        if self._exited is not None:
            self._exited = None
            self.handler = _down
        if self._stopping is None and self.letters is None:
            return None
        worker = next((worker for worker, actor in self.dispatcher.running.items() if actor is self), None)
        if worker is None:
            self.handler = _down_in_ready
            if self.letters:
                self.dispatcher.down.add(self)
            return None
        if self._stopping is None:
            self._stopping = self.dispatcher.loop.create_future()
            self._take_letters_away()
        return None if worker is asyncio.current_task() else self._halt(worker, self._stopping, shutdown_s)

    def retire(self) -> None:
        """Take it down for good. The letter that it is inside of is finished, those that wait are dead.

        Asks among them get `ActorStopped`, with the crash as the cause where one has ended the last incarnation.
        Retiring again does nothing.
        """
        if not self.stopped:
            self.stopped = True
            self._exited = None
            self.handler = _down
            self.dispatcher.ledger.actors -= 1
            self.dispatcher.down.discard(self)
            self.bury_waiting(DeadLetterReason.STOPPED)

    def dead_letters(self) -> list[DeadLetter]:
        """Return the letters that ended incarnations and were given up, oldest first; the latest of too many."""
        return list(self._dead or ())

    def replay(self, limit: int) -> int:
        """Put up to `limit` dead letters back, oldest first, behind all that wait; return how many were.

        Fewer where the mailbox is full. One that was replayed `replays_max` times stays dead. Nobody waits for the
        reply any more: whoever asked was told that the letter is dead.

        Raises:
            ActorStopped: it was retired.
            ShuttingDown: the actors are closing or closed.
        """
        if self.stopped or self.dispatcher.closing:
            raise self.refusal()
        limit = min(limit, self.room - len(self.letters or ()))
        revived: list[DeadLetter] = []
        left: deque[DeadLetter] = deque(maxlen=self._poison.dead_letters_max)
        for dead in self._dead or ():
            spent = len(revived) >= limit or dead.replays >= self._poison.replays_max
            (left if spent else revived).append(dead)
        self._dead = left or None
        self.dispatcher.ledger.revive(revived)
        for dead in revived:
            letters = self.schedule() if self.letters is None else self.letters
            delivery = Delivery(crashes=dead.crashes, replays=dead.replays + 1)
            letters.append(Ask(dead.message, delivery))
        return len(revived)

    # ---------------------------------------------------------------- for the dispatcher

    def schedule(self) -> deque[Any]:
        """Return the mailbox for the first letter, as of any actor; while it is down the letter only waits."""
        if self.up:
            return super().schedule()
        if self.stopped or self.dispatcher.closing:
            raise self.refusal()
        self.dispatcher.down.add(self)
        return self.take_mailbox()

    def crashed(self, letter: Any, crash: BaseException, worker: asyncio.Task[None]) -> deque[Any]:
        """Go down, keep the mail, and tell who started it."""
        dispatcher = self.dispatcher
        if dispatcher.deaf and worker in dispatcher.deaf:  # of an incarnation that is gone
            dispatcher.crash_log.note(self.name, crash)
            self._keep_or_bury(letter, crash, retries_max=0)  # or it would be in two incarnations
            return _NOTHING
        del dispatcher.running[worker]  # inside no letter any more
        exited = self._exited
        self._exited = None
        self.handler = _down
        if type(crash) is _Down:
            self._put_back(letter)
            return _NOTHING
        self.crash = crash
        if crash.__traceback__ is not None:  # without our frame: it refers to this actor, and to the worker's next
            crash.__traceback__ = crash.__traceback__.tb_next
        if type(crash) is not asyncio.CancelledError or not (dispatcher.closed or self._stopping is not None):
            dispatcher.ledger.crashes += 1
            dispatcher.crash_log.note(self.name, crash)
        self._keep_or_bury(letter, crash, self._poison.retries_max)
        if self.letters:
            dispatcher.down.add(self)
        elif self.letters is not None:
            dispatcher.spare_mailboxes.append(self.letters)
            self.letters = None
        if exited is None:
            self._tell_stopped()
        elif not dispatcher.closed:
            dispatcher.tell_of_exit(exited, Exit("crashed", normal=False, error=type(crash).__qualname__))
        return _NOTHING

    def halted(self, worker: asyncio.Task[None]) -> None:
        """Tell who waits for the stop. A worker that was given up ends: its cancellation is owed since then."""
        if worker in self.dispatcher.deaf:
            raise asyncio.CancelledError
        self._tell_stopped()

    def _tell_stopped(self) -> None:
        if self._stopping is not None:
            self._stopping.set_result(None)
            self._stopping = None

    def _why_not_started(self) -> Exception:
        if self.stopped:
            return ActorStopped(self.name)
        if self.dispatcher.closed:
            return ShuttingDown()
        what = "up" if self.up else "still on its way down"
        return RuntimeError(f"{self.name} is {what}; stop it, and wait for that, before it is started again")

    async def _halt(self, worker: asyncio.Task[None], stopping: asyncio.Future[None], shutdown_s: float) -> None:
        """Wait for the end of the letter that the worker is inside of, and cut it off when the time is over."""
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.wait([stopping], timeout=shutdown_s)
        except asyncio.CancelledError as error:
            cancelled = error
        cut_off = not stopping.done() and worker.cancel()
        ends_s = self.dispatcher.loop.time() + LAST_WORDS_S
        while not stopping.done() and (left_s := ends_s - self.dispatcher.loop.time()) > 0:
            try:
                await asyncio.wait([stopping], timeout=left_s)
            except asyncio.CancelledError as error:
                cancelled = error
        if not stopping.done():
            self._give_up(worker)
        elif cut_off and not worker.done():
            worker.uncancel()  # the handler has swallowed it, and the worker goes on with other actors
        if cancelled is not None:
            raise cancelled

    def _give_up(self, worker: asyncio.Task[None]) -> None:
        """Be down without the end of a handler that would not stop. Nobody counts on its worker any more."""
        dispatcher = self.dispatcher
        _log.error("actor.would_not_stop", actor=self.name, at=stands_at(worker))
        del dispatcher.running[worker]
        dispatcher.workers.discard(worker)
        dispatcher.deaf.add(worker)  # held, or it would be collected in the middle of its work
        worker.add_done_callback(dispatcher.deaf.discard)
        self._tell_stopped()
        dispatcher.notify_if_idle()

    def _take_letters_away(self) -> None:
        """Leave the worker, which goes on with the deque that it has, nothing behind the letter it is inside of."""
        held = self.letters
        self.letters = None
        if held:
            self.take_mailbox().extend(held)
            held.clear()
            self.dispatcher.down.add(self)

    def _put_back(self, letter: Any) -> None:
        letters = self.take_mailbox() if self.letters is None else self.letters
        letters.appendleft(letter)

    def _keep_or_bury(self, letter: Any, crash: BaseException, retries_max: int) -> None:
        """Put the letter that a handler did not survive back to the head, or set it aside."""
        message: Any = letter
        reply: Any = None
        attempts, crashes, replays = 1, 1, 0
        if type(letter) is Ask:
            message, reply = letter.message, letter.reply
            if type(reply) is Delivery:
                attempts, crashes, replays = reply.attempts + 1, reply.crashes + 1, reply.replays
                reply = reply.reply
        closed = self.dispatcher.closed
        again = attempts <= retries_max and not (closed or self.stopped)
        if again and isinstance(crash, _TRIED_AGAIN):
            self._put_back(Ask(message, Delivery(reply, attempts, crashes, replays)))
        elif closed and isinstance(crash, asyncio.CancelledError):
            self._bury(letter, DeadLetterReason.SHUTTING_DOWN)
        else:
            if reply is not None and not reply.done():
                error = LetterDead(self.name, type(crash).__qualname__)
                error.__cause__ = crash
                reply.set_exception(error)
            dead = DeadLetter(
                actor=self.name,
                message=message,
                reason=DeadLetterReason.CRASHED,
                error=type(crash).__qualname__,
                crashes=crashes,
                replays=replays,
            )
            self.dispatcher.ledger.bury(dead)
            if self._dead is None:
                self._dead = deque(maxlen=self._poison.dead_letters_max)
            self._dead.append(dead)
