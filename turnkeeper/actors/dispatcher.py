"""The dispatcher: a queue of actors that have letters, and the reusable workers that run them.

An actor is idle, scheduled or running:

    idle ------ first letter ------> scheduled     it gets a mailbox, and a place in `ready`
    scheduled - a worker takes it -> running       it leaves `ready`
    running --- letters are left --> scheduled     behind the others
    running --- none is left ------> idle          the mailbox goes back

Only the first puts an actor into `ready` from outside, and only the worker that took it runs it. So an actor is inside
one letter at a time, and there is nothing to lock.

The invariant: whenever the event loop has control and `ready` is not empty, a dispatch is pending: `_dispatch` is
queued, or a worker was woken in its place, or one has only given the loop a turn and goes on. So no letter waits for
another actor's handler that hangs in an await.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final, cast

from turnkeeper.actors.crashlog import CrashLog
from turnkeeper.actors.letters import Ask, DeadLetter, DeadLetterReason, Ledger
from turnkeeper.actors.node import logger
from turnkeeper.kernel.errors import ActorStopped, MailboxFull, Refused, ShuttingDown
from turnkeeper.kernel.supervision.child import Exit, Exited

__all__ = ["Actor", "Dispatcher", "Mortal"]

LETTERS_PER_RUN: Final = 64
"""Letters of one actor before the next ready actor has its turn."""
LETTERS_PER_YIELD: Final = 256
"""Letters a worker handles before the event loop has a turn: under 0.1 ms of trivial handlers."""
HELPERS_MAX: Final = 64
"""Workers that one dispatch may bring: 5,000 blocking actors all run after 85 turns of the loop."""
PARKED_WORKERS_MAX: Final = 256
"""Workers kept for the next handlers that block."""
SPARE_MAILBOXES_MAX: Final = 1_024
"""Empty deques kept for actors that wake up; one costs 0.6 KB, so an idle actor had better not hold it."""
LETTERS_PER_CRASH: Final = 16
"""A crash and a restart take as long as so many letters of trivial handlers, and count as so many."""

_log: Final = logger()


class Actor:
    """What the dispatcher knows of an actor.

    `letters` is None while idle. `room` is how many letters may wait, 0 once none is taken any more.
    """

    __slots__ = ("crash", "dispatcher", "handler", "letters", "name", "room", "stopped")

    def __init__(
        self, handler: Callable[[Any], Coroutine[Any, Any, Any]], name: str, room: int, dispatcher: "Dispatcher"
    ) -> None:
        """Make an idle actor."""
        self.handler = handler
        self.name = name
        self.room = room
        self.dispatcher = dispatcher
        self.letters: deque[Any] | None = None
        self.stopped = False
        self.crash: BaseException | None = None

    def schedule(self) -> deque[Any]:
        """Go from idle to scheduled, and return the mailbox for the first letter.

        Raises:
            ActorStopped: the actor has stopped.
            ShuttingDown: the dispatcher is closing or closed.
        """
        dispatcher = self.dispatcher
        if self.stopped or dispatcher.closing:
            raise self.refusal()
        spare = dispatcher.spare_mailboxes
        self.letters = letters = spare.pop() if spare else deque()  # take_mailbox, without the call
        dispatcher.ready.append(self)
        if not dispatcher.pending:
            dispatcher.request_dispatch()
        return letters

    def refusal(self) -> Refused:
        """Return the error that says why a letter is not taken."""
        if self.stopped:
            return self._stopped_error()
        if self.dispatcher.closing:
            return ShuttingDown()
        return MailboxFull(self.name, self.room)

    def take_mailbox(self) -> deque[Any]:
        """Return an empty mailbox that is this actor's from now on."""
        spare = self.dispatcher.spare_mailboxes
        self.letters = letters = spare.pop() if spare else deque()
        return letters

    def crashed(self, letter: Any, crash: BaseException, worker: asyncio.Task[None]) -> deque[Any] | None:
        """Do what a crash in the handler of `letter` asks for, and return the letters that the worker goes on with."""
        raise NotImplementedError

    def halted(self, worker: asyncio.Task[None]) -> None:
        """Note that the letter is over whose mailbox was taken away meanwhile."""

    def bury_waiting(self, reason: DeadLetterReason) -> None:
        """Dead-letter every letter that waits, and take none from now on."""
        self.room = 0
        while self.letters:
            self._bury(self.letters.popleft(), reason)

    def _bury(self, letter: Any, reason: DeadLetterReason, error: Exception | None = None) -> None:
        """Dead-letter one letter; who waits for its reply gets the error, or else the one that fits the reason."""
        message = letter
        if type(letter) is Ask:
            message = letter.message
            if not letter.reply.done():  # done: the asker was cancelled
                if error is None:
                    error = ShuttingDown() if reason is DeadLetterReason.SHUTTING_DOWN else self._stopped_error()
                letter.reply.set_exception(error)
        name = type(self.crash).__qualname__ if reason is DeadLetterReason.CRASHED else ""
        self.dispatcher.ledger.bury(DeadLetter(actor=self.name, message=message, reason=reason, error=name))

    def _stopped_error(self) -> ActorStopped:
        error = ActorStopped(self.name)
        error.__cause__ = self.crash
        return error


class Mortal(Actor):
    """An actor that a crash stops. Stopping is no letter: it goes ahead of the whole mailbox, and is done at once."""

    __slots__ = ()

    def stop(self) -> None:
        """Stop the actor ahead of every letter that waits; the one it is inside of is finished.

        The waiting letters are dead at once, and asks among them get `ActorStopped`. Stopping again does nothing.
        """
        if not self.stopped:
            self.stopped = True
            self.dispatcher.ledger.actors -= 1
            self.bury_waiting(DeadLetterReason.STOPPED)

    def crashed(self, letter: Any, crash: BaseException, _worker: asyncio.Task[None]) -> deque[Any] | None:
        """Stop, because an exception left the handler of `letter`."""
        dispatcher = self.dispatcher
        if dispatcher.closed and isinstance(crash, asyncio.CancelledError):
            self._bury(letter, DeadLetterReason.SHUTTING_DOWN)
            return self.letters
        _log.error("actor.crashed", actor=self.name, exc_info=crash)
        dispatcher.ledger.crashes += 1
        self.crash = crash
        # A CancelledError or a SystemExit stays here: raised in the asker's task it would mean something else.
        self._bury(letter, DeadLetterReason.CRASHED, crash if isinstance(crash, Exception) else None)
        self.stop()
        return self.letters


class Dispatcher:
    """Runs scheduled actors on as few tasks as their awaits allow.

    How many workers there are follows from how many actors hang in an await at the same time, and from nothing else.
    A worker that is cancelled from outside is replaced as soon as there is work. Workers inherit the context variables
    of the task that opened the dispatcher, never those of a sender.
    """

    __slots__ = (
        "_context",
        "_helpers",
        "_idle_waiters",
        "_yielding",
        "closed",
        "closing",
        "crash_log",
        "deaf",
        "down",
        "ledger",
        "loop",
        "parked",
        "pending",
        "ready",
        "running",
        "spare_mailboxes",
        "workers",
    )

    def __init__(self) -> None:
        """Make a dispatcher that takes no letters until it is opened."""
        self.closing = self.closed = True  # no letter is taken, and none is begun
        self.ledger = Ledger()
        self.crash_log = CrashLog()
        self.ready: deque[Actor] = deque()
        self.running: dict[asyncio.Task[None], Actor] = {}  # exact whenever the loop has control
        self.down: set[Actor] = set()  # not to be run now, and letters wait for it
        self.workers: set[asyncio.Task[None]] = set()
        self.deaf: set[asyncio.Task[None]] = set()  # inside a letter of a handler that would not stop
        self.parked: list[asyncio.Future[bool]] = []
        self.spare_mailboxes: deque[deque[Any]] = deque(maxlen=SPARE_MAILBOXES_MAX)
        self.pending = False
        self._yielding = 0
        self._helpers = 1
        self._idle_waiters: list[asyncio.Future[None]] = []

    def open(self) -> None:
        """Take letters from now on, on the running event loop."""
        self.loop = asyncio.get_running_loop()
        self._context = copy_context()
        self.crash_log.open(self.loop)
        self.closing = self.closed = False

    def request_dispatch(self) -> None:
        """Make sure that somebody looks at `ready` once the loop has control. For use while `pending` is false."""
        if self._yielding:
            return
        if self.parked and not self.parked[-1].done():
            self.pending = True
            self.parked.pop().set_result(True)  # in place of a dispatch: one turn of the loop sooner
        else:
            self._queue_dispatch()

    async def wait_until_idle(self) -> None:
        """Wait until no actor is scheduled or running."""
        while self.ready or self.running:
            waiter = self.loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def refuse_letters(self) -> None:
        """Begin to close: take no letter from now on, and go on with those that wait."""
        self.closing = True
        for actor in (*self.ready, *self.running.values()):
            actor.room = 0
        for actor in self.down:  # apart: what is stopping runs and is down
            actor.room = 0

    def tell_of_exit(self, exited: Exited, exit_: Exit) -> None:
        """Call `exited` from within a worker. No other is brought meanwhile: this one goes on with what is ready."""
        self._yielding += 1
        try:
            exited(exit_)
        except Exception:  # noqa: BLE001 - a supervisor's mistake is not the worker's end, which other actors need
            _log.exception("supervisor.crashed")
        finally:
            self._yielding -= 1

    async def close(self) -> None:
        """Dead-letter what waits, cancel the workers, and return once all have ended, even if cancelled meanwhile.

        A handler that swallows its cancellation holds this up, unless a `Supervised.stop` has given it up.
        """
        self.closed = True
        for actor in (*self.ready, *self.running.values()):
            actor.bury_waiting(DeadLetterReason.SHUTTING_DOWN)
        for actor in self.down:
            actor.bury_waiting(DeadLetterReason.SHUTTING_DOWN)
        self.ready.clear()
        self.down.clear()
        for worker in self.workers:
            worker.cancel()
        cancelled: asyncio.CancelledError | None = None
        while self.workers:
            try:
                await asyncio.wait(self.workers)
            except asyncio.CancelledError as error:
                cancelled = error
        self.parked.clear()
        self.crash_log.flush()
        if cancelled is not None:
            raise cancelled

    def _queue_dispatch(self) -> None:
        self.pending = True
        # The context is the workers' too; without it the first sender's would be.
        self.loop.call_soon(self._dispatch, context=self._context)

    def _dispatch(self) -> None:
        """Bring workers to work that nobody would reach. A callback of the loop: no worker has the thread."""
        if not self.ready or self._yielding:
            self.pending = False
            self._helpers = 1
            return
        for _ in range(min(self._helpers, len(self.ready))):
            if not self._wake_worker():
                self._start_worker()
        # Look again after them. If work is left by then they have all blocked: expect the same of twice as many.
        self._helpers = min(2 * self._helpers, HELPERS_MAX)
        self._queue_dispatch()

    def _wake_worker(self) -> bool:
        """Wake the worker that parked last; return whether there was one."""
        while self.parked:
            waker = self.parked.pop()
            if not waker.done():  # done: the worker was cancelled
                waker.set_result(False)
                return True
        return False

    def _start_worker(self) -> None:
        worker = self.loop.create_task(self._work(), name="turnkeeper.worker")
        self.workers.add(worker)
        worker.add_done_callback(self._worker_ended)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Keep the promises a cancelled worker takes with it: to look at `ready`, because it was woken or yielded."""
        self.workers.discard(worker)
        self.running.pop(worker, None)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            _log.error("worker.crashed", exc_info=error)
        self.pending = False
        if self.ready:
            self.request_dispatch()
        else:
            self.notify_if_idle()

    async def _work(self) -> None:
        """Run what is ready, and park until there is more; end once closed, or when enough others are parked."""
        me = cast("asyncio.Task[None]", asyncio.current_task())
        while True:
            await self._drain(me)
            if not self._yielding:
                # An asker that was just answered often asks again: one worker looks once more before it parks, which
                # saves the ask one turn of the loop in two.
                await self._yield_to_loop(me)
                if self.ready:
                    continue
            if self._idle_waiters:
                self.notify_if_idle()
            if self.closed or len(self.parked) >= PARKED_WORKERS_MAX:
                return
            waker = self.loop.create_future()
            self.parked.append(waker)
            if await waker:  # woken in place of a dispatch
                self.pending = False

    async def _drain(self, me: asyncio.Task[None]) -> None:
        """Run ready actors, each for some of its letters, until none is ready."""
        ready, running, ledger = self.ready, self.running, self.ledger
        letters: Any  # the mailbox of a scheduled actor is never None
        letter = None
        unyielded = 0
        while ready:
            running[me] = actor = ready.popleft()
            if ready and not self.pending:
                self._queue_dispatch()
            handler, letters, left = actor.handler, actor.letters, LETTERS_PER_RUN
            try:
                while letters and left:
                    left -= 1
                    letter = letters.popleft()
                    if type(letter) is Ask:
                        reply = await handler(letter.message)
                        if not letter.reply.done():  # done: the asker was cancelled
                            letter.reply.set_result(reply)
                    else:
                        await handler(letter)
                    ledger.letters_done += 1
            except BaseException as crash:  # noqa: BLE001 - what is meant for the worker is raised again
                letters = _crashed(actor, letter, crash, me)
                left -= LETTERS_PER_CRASH
            finally:
                letter = None  # the traceback of a crash keeps this frame
            if letters:
                ready.append(actor)
            elif actor.letters is letters:
                actor.letters = None
                self.spare_mailboxes.append(letters)  # type: ignore[arg-type]  # scheduled, it has one
            else:
                actor.halted(me)
            unyielded += LETTERS_PER_RUN - left
            if unyielded >= LETTERS_PER_YIELD:
                unyielded = 0
                await self._yield_to_loop(me)
        running.pop(me, None)

    async def _yield_to_loop(self, me: asyncio.Task[None]) -> None:
        """Give the loop a turn. No other worker is brought meanwhile, because this one goes on with what is ready."""
        self.running.pop(me, None)
        self._yielding += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._yielding -= 1

    def notify_if_idle(self) -> None:
        """Tell who waits for it that no actor is scheduled or running, if that is so."""
        if self.ready or self.running:
            return
        for waiter in self._idle_waiters:
            if not waiter.done():  # done: it was cancelled
                waiter.set_result(None)
        self._idle_waiters.clear()


def _crashed(actor: Actor, letter: Any, crash: BaseException, worker: asyncio.Task[None]) -> Any:
    """Return the letters that the worker goes on with, or raise its own cancellation, or an end of the process."""
    letters = actor.crashed(letter, crash, worker)
    if not isinstance(crash, Exception) and (worker.cancelling() or not isinstance(crash, asyncio.CancelledError)):
        raise crash
    return letters
