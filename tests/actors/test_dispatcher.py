"""The dispatcher: one letter at a time, no letter waits for nobody, none is lost, and no task is left behind.

Schedules are shuffled: a seeded loop in virtual time runs what is ready in any order, and time passes only when nothing
is. So a letter that nobody would reach shows as time that passes while it waits.
"""

import asyncio
import contextlib
import logging
import random
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from turnkeeper.actors.volatile import ActorRef, Actors, DeadLetterReason
from turnkeeper.kernel.errors import ActorStopped, MailboxFull, ShuttingDown

SEEDS = range(200)


class ShuffledLoop(base_events.BaseEventLoop):
    """A loop in virtual time that runs what is ready in a seeded order; `before_sleep` sees it run out of work."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.before_sleep: Callable[[], None] = lambda: None
        self.workers: list[asyncio.Task[Any]] = []
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        return self._now

    def select(self, timeout_s: float | None) -> list[Any]:
        """Pass the time instead of waiting for I/O."""
        if timeout_s is None:
            msg = "nothing is ready and nothing is scheduled"
            raise RuntimeError(msg)
        if timeout_s:
            self.before_sleep()
            self._now += timeout_s
        return []

    def create_task(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Keep the workers in the order of their creation, so that a seed means the same every time."""
        task = super().create_task(*args, **kwargs)
        if task.get_name() == "turnkeeper.worker":
            self.workers.append(task)
        return task

    def cancel_a_worker(self) -> None:
        """Cancel any of the workers, if there are any."""
        workers = [worker for worker in self.workers if not worker.done()]
        if workers:
            self.random.choice(workers).cancel()

    def close(self) -> None:
        super().close()
        del self._selector  # it is this loop: a reference to itself

    def _process_events(self, _events: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def _run_once(self) -> None:
        ready: deque[Any] = vars(self)["_ready"]
        handles = list(ready)
        self.random.shuffle(handles)
        ready.clear()
        ready.extend(handles)
        super()._run_once()  # type: ignore[misc]


def run_shuffled(seed: int, main: Callable[[ShuffledLoop], Coroutine[Any, Any, None]]) -> None:
    """Run one schedule, and see that it leaves no task."""
    loop = ShuffledLoop(seed)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main(loop))

        assert not asyncio.all_tasks(loop)
    finally:
        loop.before_sleep = lambda: None
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


def worker_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks that the actors of this loop hold."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "turnkeeper.worker"]


async def turns_of_the_loop(count: int) -> None:
    """Let everything that is ready run, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def echo(message: Any) -> Any:
    """Reply with the message."""
    return message


class Gate:
    """A handler that reports each message and waits until it is let go."""

    def __init__(self) -> None:
        self.entered: list[Any] = []
        self.left: list[Any] = []
        self.open = asyncio.Event()

    async def handle(self, message: Any) -> Any:
        """Wait at the gate."""
        self.entered.append(message)
        await self.open.wait()
        self.left.append(message)
        return message


# ---------------------------------------------------------------- one at a time


@pytest.mark.parametrize("seed", SEEDS)
def test_an_actor_is_inside_one_letter_at_a_time_and_takes_each_senders_in_order(seed: int) -> None:
    """Many senders, tells and asks, handlers that do and do not suspend, any order of the loop's callbacks."""

    async def main(loop: ShuffledLoop) -> None:
        inside: set[int] = set()
        seen: dict[tuple[int, int], list[int]] = {}

        def handler(actor: int) -> Callable[[tuple[int, int]], Coroutine[Any, Any, int]]:
            async def handle(message: tuple[int, int]) -> int:
                assert actor not in inside
                inside.add(actor)
                sender, number = message
                seen.setdefault((actor, sender), []).append(number)
                if loop.random.random() < 0.5:
                    await asyncio.sleep(loop.random.choice([0, 0, 0.01, 5]))
                inside.discard(actor)
                return number

            return handle

        async def send(sender: int, refs: list[ActorRef[tuple[int, int], int]]) -> None:
            for number in range(20):
                ref = loop.random.choice(refs)
                if loop.random.random() < 0.2:
                    assert await ref.ask((sender, number)) == number
                else:
                    ref.tell((sender, number))
                if loop.random.random() < 0.3:
                    await asyncio.sleep(loop.random.choice([0, 0.01]))

        async with Actors(shutdown_s=1_000) as actors:
            refs = [actors.spawn(handler(actor)) for actor in range(5)]
            await asyncio.gather(*(send(sender, refs) for sender in range(4)))
            await actors.wait_until_idle()

            assert actors.statistics().letters_done == sum(map(len, seen.values())) == 80
        assert all(numbers == sorted(numbers) for numbers in seen.values())

    run_shuffled(seed, main)


# ---------------------------------------------------------------- work


@pytest.mark.parametrize("seed", SEEDS)
def test_time_never_passes_while_a_letter_waits_for_a_worker(seed: int) -> None:
    """Whenever the loop would sleep, no idle actor has mail, though handlers hang and workers are cancelled."""

    async def main(loop: ShuffledLoop) -> None:
        async def handle(_message: int) -> None:
            if loop.random.random() < 0.6:
                await asyncio.sleep(loop.random.choice([0, 0.01, 1, 50]))

        async with Actors(shutdown_s=100_000) as actors:

            def nothing_waits() -> None:
                assert actors.statistics().ready == 0

            loop.before_sleep = nothing_waits
            refs = [actors.spawn(handle) for _ in range(8)]
            for _ in range(60):
                with contextlib.suppress(ActorStopped):
                    for ref in loop.random.sample(refs, loop.random.randrange(1, 8)):
                        ref.tell(0)
                if loop.random.random() < 0.1:
                    loop.cancel_a_worker()
                await asyncio.sleep(loop.random.choice([0, 0, 0.01, 1]))

    run_shuffled(seed, main)


async def test_a_handler_that_hangs_holds_up_nobody_else() -> None:
    """Every other actor goes on while one waits for something."""
    gate = Gate()
    async with Actors() as actors:
        actors.spawn(gate.handle).tell("hangs")

        assert await actors.spawn(echo).ask("passes") == "passes"
        assert actors.statistics().running == 1
        gate.open.set()


async def test_workers_are_as_many_as_blocked_actors() -> None:
    """Letters alone bring no second worker; handlers that await bring one each; enough of them are kept for later."""
    gate = Gate()
    async with Actors() as actors:
        quick = [actors.spawn(echo) for _ in range(1_000)]
        for ref in quick:
            for number in range(10):
                ref.tell(number)
        await actors.wait_until_idle()

        assert actors.statistics().workers == 1

        for _ in range(1_000):
            actors.spawn(gate.handle).tell("hangs")
        await turns_of_the_loop(50)

        assert len(gate.entered) == 1_000
        assert actors.statistics().workers == 1_000

        gate.open.set()
        await actors.wait_until_idle()
        await turns_of_the_loop(3)

        assert actors.statistics().workers == actors.statistics().workers_parked == 256


async def test_many_blocked_handlers_are_no_reason_to_expect_more_the_next_time() -> None:
    """Twice as many workers are brought while all of them block; when work comes again that starts with one."""
    gate = Gate()
    async with Actors() as actors:
        for _ in range(64):  # 1, 2, 4 ... 32 workers, and one for the last
            actors.spawn(gate.handle).tell("hangs")
        await turns_of_the_loop(20)
        gate.open.set()
        await actors.wait_until_idle()
        for worker in worker_tasks():
            worker.cancel()
        await turns_of_the_loop(3)
        gate.open.clear()
        actors.spawn(gate.handle).tell("hangs")
        replies = [actors.spawn(echo).ask(number) for number in range(100)]

        assert await asyncio.gather(*replies) == list(range(100))
        assert actors.statistics().workers <= 3  # one hangs, two were brought instead, one would have done
        gate.open.set()


async def test_ten_thousand_idle_actors_hold_no_task() -> None:
    """An actor that has handled its letters is an object, nothing more."""
    async with Actors() as actors:
        refs = [actors.spawn(echo) for _ in range(10_000)]
        await asyncio.gather(*(ref.ask(0) for ref in refs))
        await turns_of_the_loop(3)

        assert len(worker_tasks()) == actors.statistics().workers == 1
        assert actors.statistics().actors == 10_000


async def test_a_full_mailbox_lets_the_next_actor_have_its_turn() -> None:
    """After 64 letters of one actor another one runs."""
    order: list[str] = []

    async def handle(message: str) -> None:
        order.append(message)

    async with Actors() as actors:
        busy, patient = actors.spawn(handle), actors.spawn(handle)
        for _ in range(1_000):
            busy.tell("busy")
        patient.tell("patient")
        await actors.wait_until_idle()

    assert order.index("patient") == 64


async def test_the_loop_has_a_turn_after_a_few_hundred_letters() -> None:
    """A million letters do not keep timers and sockets waiting, whether they wait or arrive one by one."""
    handled = 0
    most = 0

    async def handle(letters_left: int) -> None:
        nonlocal handled
        handled += 1
        if letters_left:
            ref.tell(letters_left - 1)

    async with Actors() as actors:
        other, ref = actors.spawn(echo), actors.spawn(handle)
        await other.ask(0)  # a parked worker could join in
        ref.tell(5_000)
        for _ in range(5_000):
            ref.tell(0)
        while handled < 10_001:
            before = handled
            await asyncio.sleep(0)
            most = max(most, handled - before)

    assert most <= 2 * (256 + 63)


async def test_waiting_until_idle_survives_a_cancelled_waiter() -> None:
    """One waiter that gives up takes nothing from the others."""
    gate = Gate()
    async with Actors() as actors:
        actors.spawn(gate.handle).tell("hangs")
        waiters = [asyncio.ensure_future(actors.wait_until_idle()) for _ in range(2)]
        await turns_of_the_loop(3)
        waiters[0].cancel()
        gate.open.set()
        await waiters[1]

        assert actors.statistics().running == 0


# ---------------------------------------------------------------- cancelled workers


async def test_a_cancelled_worker_loses_no_mail() -> None:
    """Its actor has crashed, since its handler was left half-way; every other letter is handled by another worker."""
    gate = Gate()
    async with Actors() as actors:
        ref = actors.spawn(gate.handle)
        running, waiting = ref.ask("running"), ref.ask("waiting")
        await turns_of_the_loop(3)
        (worker,) = worker_tasks()
        others = [actors.spawn(echo).ask(number) for number in range(10)]
        worker.cancel()

        with pytest.raises(ActorStopped):
            await running
        with pytest.raises(ActorStopped):
            await waiting
        assert await asyncio.gather(*others) == list(range(10))
        assert worker.cancelled()


@pytest.mark.parametrize("turns", range(6))
async def test_cancelling_an_idle_worker_at_any_moment_loses_no_mail(turns: int) -> None:
    """Parked, just woken, about to park: the next letter finds a worker."""
    async with Actors() as actors:
        ref = actors.spawn(echo)
        await ref.ask("warm up")
        await turns_of_the_loop(turns)
        (worker,) = worker_tasks()
        worker.cancel()
        before = ref.ask("before it is gone")
        await asyncio.wait([worker])

        assert await before == "before it is gone"
        assert await ref.ask("after") == "after"


async def test_cancelling_a_worker_that_was_just_woken_loses_no_mail() -> None:
    """The letter that woke it is handled by another."""
    async with Actors() as actors:
        ref = actors.spawn(echo)
        await ref.ask("warm up")
        await turns_of_the_loop(3)
        (worker,) = worker_tasks()
        reply = ref.ask("wakes the worker")
        worker.cancel()

        assert await reply == "wakes the worker"
        assert worker.cancelled()


async def first_blocked_second_parked(actors: Actors, gate: Gate) -> asyncio.Task[Any]:
    """Have one worker that hangs at the gate, and return another one that is parked."""
    actors.spawn(gate.handle).tell("occupies the first worker")
    await turns_of_the_loop(3)
    (first,) = worker_tasks()
    await actors.spawn(echo).ask("brings the second")
    await turns_of_the_loop(3)
    (second,) = set(worker_tasks()) - {first}
    return second


async def test_a_woken_worker_that_is_cancelled_takes_no_later_dispatch_with_it() -> None:
    """It was woken in place of a dispatch, and another worker did the work that it was woken for."""
    gate = Gate()
    async with Actors() as actors:
        quick = actors.spawn(echo)
        second = await first_blocked_second_parked(actors, gate)
        gate.open.set()
        reply = quick.ask("wakes the second, and is handled by the first")
        second.cancel()

        assert await reply
        assert second.cancelled()
        await turns_of_the_loop(3)
        assert await quick.ask("is handled as well")


async def test_a_woken_worker_that_is_cancelled_while_another_yields_takes_no_dispatch_with_it() -> None:
    """The one that yields goes on, and hangs in the next handler: what waits behind that needs a dispatch."""
    gate = Gate()
    async with Actors() as actors:
        quick = actors.spawn(echo)
        second = await first_blocked_second_parked(actors, gate)
        quick.tell("wakes the second")
        gate.open.set()
        second.cancel()
        await asyncio.sleep(0)
        gate.open.clear()
        actors.spawn(gate.handle).tell("hangs")

        assert await quick.ask("is not held up")
        gate.open.set()


async def test_cancelling_a_worker_before_it_began_loses_no_mail() -> None:
    """A task that is cancelled before its first step runs none of its code, not even a finally."""
    async with Actors() as actors:
        reply = actors.spawn(echo).ask(1)
        await asyncio.sleep(0)
        (worker,) = worker_tasks()
        worker.cancel()

        assert await reply == 1


def test_an_exit_raised_by_a_handler_ends_the_process_in_order() -> None:
    """SystemExit reaches the top; the asker gets ActorStopped, and the letter is dead, not lost."""
    actors = Actors()
    reply: list[asyncio.Future[None]] = []

    async def leave(_message: None) -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with actors:
            reply.append(actors.spawn(leave).ask(None))
            await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        asyncio.run(main())

    assert isinstance(reply[0].exception(), ActorStopped)
    assert actors.statistics().letters_dead == 1
    assert actors.statistics().workers == 0


# ---------------------------------------------------------------- closing


def test_leaving_the_block_cancels_what_does_not_finish_in_time() -> None:
    """After `shutdown_s` the handler is cancelled, every ask gets ShuttingDown, and the letters are dead."""

    async def main(loop: ShuffledLoop) -> None:
        gate = Gate()
        actors = Actors(shutdown_s=5)
        async with actors:
            ref = actors.spawn(gate.handle)
            replies = [ref.ask(number) for number in range(3)]
            quick = actors.spawn(echo).ask("quick")
            started = loop.time()

        assert loop.time() - started == pytest.approx(5)
        assert await quick == "quick"
        for reply in replies:
            with pytest.raises(ShuttingDown):
                await reply
        assert [letter.reason for letter in actors.dead_letters()] == [DeadLetterReason.SHUTTING_DOWN] * 3
        assert (gate.entered, gate.left) == ([0], [])
        assert actors.statistics().crashes == 0
        assert actors.statistics().workers == 0

    run_shuffled(0, main)


class Chaos:
    """Senders and handlers that send, ask, crash, stop, give up and cancel workers, all by the seed."""

    def __init__(self, loop: ShuffledLoop) -> None:
        self.loop = loop
        self.random = loop.random
        self.actors = Actors(shutdown_s=2)
        self.refs: list[ActorRef[int, None]] = []
        self.replies: list[asyncio.Future[None]] = []
        self.accepted = 0

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def spawn(self) -> ActorRef[int, None]:
        return self.actors.spawn(self.handle, mailbox_len_max=5)

    async def handle(self, _message: int) -> None:
        if self.chance(0.3):
            await asyncio.sleep(self.random.choice([0, 0.01, 3]))
        if self.chance(0.05):
            raise ValueError
        if self.chance(0.05):
            self.random.choice(self.refs).stop()

    async def send(self) -> None:
        for number in range(50):
            with contextlib.suppress(ShuttingDown):
                self.send_one(number)
            if self.chance(0.03) and self.replies:
                self.random.choice(self.replies).cancel()
            if self.chance(0.03):
                self.loop.cancel_a_worker()
            if self.chance(0.2):
                await asyncio.sleep(self.random.choice([0, 0.01, 1]))

    def send_one(self, number: int) -> None:
        place = self.random.randrange(len(self.refs))
        try:
            if self.chance(0.5):
                self.replies.append(self.refs[place].ask(number))
            else:
                self.refs[place].tell(number)
        except MailboxFull:
            return
        except ActorStopped:
            self.refs[place] = self.spawn()
        else:
            self.accepted += 1


@pytest.mark.parametrize("seed", SEEDS)
def test_every_accepted_letter_is_done_or_dead_and_every_ask_is_answered(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Under crashes, stops, cancelled askers and workers, full mailboxes, and a closing half-way through it all."""
    caplog.set_level(logging.CRITICAL, "turnkeeper")

    async def main(loop: ShuffledLoop) -> None:
        chaos = Chaos(loop)
        async with chaos.actors:
            chaos.refs += [chaos.spawn() for _ in range(4)]
            senders = [asyncio.ensure_future(chaos.send()) for _ in range(3)]
            await asyncio.sleep(loop.random.choice([0, 0.5, 4]))
        await asyncio.gather(*senders)

        statistics = chaos.actors.statistics()
        assert statistics.letters_done + statistics.letters_dead == chaos.accepted
        assert (statistics.ready, statistics.running, statistics.workers) == (0, 0, 0)
        answers = {type(answer) for answer in await asyncio.gather(*chaos.replies, return_exceptions=True)}
        assert answers <= {type(None), ValueError, ActorStopped, ShuttingDown, asyncio.CancelledError}

    run_shuffled(seed, main)
