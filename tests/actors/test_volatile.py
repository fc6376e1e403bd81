"""Volatile actors: what a sender may rely on, from the first letter to the closing."""

import asyncio
import contextlib
import contextvars
import gc
import logging
import weakref
from typing import Any

import anyio
import pytest

from turnkeeper.actors.volatile import Actors, DeadLetterReason
from turnkeeper.kernel.errors import ActorStopped, MailboxFull, ShuttingDown


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


async def fail(message: str) -> None:
    """Raise what is asked for."""
    raise ValueError(message)


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


# ---------------------------------------------------------------- letters


async def test_a_tell_is_handled() -> None:
    """A letter reaches the handler, and is counted as done."""
    seen: list[str] = []

    async def handle(message: str) -> None:
        seen.append(message)

    async with Actors() as actors:
        actors.spawn(handle).tell("hello")
        await actors.wait_until_idle()

        assert seen == ["hello"]
        assert actors.statistics().letters_done == 1


async def test_an_ask_returns_what_the_handler_returns() -> None:
    """Each asker gets the reply to its own letter, however many ask at once."""
    async with Actors() as actors:
        ref = actors.spawn(echo)

        replies = await asyncio.gather(*(ref.ask(number) for number in range(100)))

        assert replies == list(range(100))


async def test_an_ask_raises_what_the_handler_raises() -> None:
    """The asker gets the very exception."""
    async with Actors() as actors:
        with pytest.raises(ValueError, match="boom"):
            await actors.spawn(fail).ask("boom")


async def test_an_actor_may_send_to_itself() -> None:
    """A letter that a handler sends to its own actor comes after those that wait."""
    seen: list[int] = []

    async def handle(message: int) -> None:
        seen.append(message)
        if message == 1:
            ref.tell(3)

    async with Actors() as actors:
        ref = actors.spawn(handle)
        ref.tell(1)
        ref.tell(2)
        await actors.wait_until_idle()

    assert seen == [1, 2, 3]


async def test_a_cancelled_asker_only_stops_waiting() -> None:
    """The letter stays in the mailbox, is handled, and harms neither the actor nor the next asker."""
    gate = Gate()
    async with Actors() as actors:
        ref = actors.spawn(gate.handle)
        ref.tell("first")
        asker = asyncio.ensure_future(ref.ask("second"))
        await turns_of_the_loop(3)
        asker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asker
        gate.open.set()

        assert await ref.ask("third") == "third"
        assert gate.left == ["first", "second", "third"]
        assert actors.statistics().letters_done == 3


async def test_a_handler_does_not_see_its_senders_context() -> None:
    """A context variable of the sender would leak into every later letter of the worker it happened to start."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    async def read(_message: None) -> str:
        return request.get()

    async with Actors() as actors:
        request.set("sender's")

        assert await actors.spawn(read).ask(None) == "none"


class Payload:
    """A message that can be watched."""


async def test_a_worker_keeps_no_letter_alive() -> None:
    """A message is free as soon as its handler has returned."""
    payload = Payload()
    alive = weakref.ref(payload)
    async with Actors() as actors:
        await actors.spawn(echo).ask(payload)
        await turns_of_the_loop(3)
        del payload

        assert alive() is None


async def test_a_crash_keeps_no_letter_alive_but_as_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    """What crashed is free with the list of dead letters, though the ask, its exception and its frames form cycles."""
    caplog.set_level(logging.CRITICAL, "turnkeeper")  # a captured record would keep the traceback

    async def crash(message: Payload) -> None:
        raise ValueError(message)

    payload = Payload()
    alive = weakref.ref(payload)
    actors = Actors()
    async with actors:
        with pytest.raises(ValueError, match="Payload"):
            await actors.spawn(crash).ask(payload)
        del payload

        assert [letter.message for letter in actors.dead_letters()] == [alive()]
    del actors
    gc.collect()

    assert alive() is None


# ---------------------------------------------------------------- refusing


async def test_a_full_mailbox_refuses() -> None:
    """One letter more than the limit is refused, and there is room again once some were handled."""
    gate = Gate()
    async with Actors() as actors:
        ref = actors.spawn(gate.handle, name="narrow", mailbox_len_max=2)
        ref.tell(1)
        await turns_of_the_loop(3)
        ref.tell(2)
        ref.tell(3)

        with pytest.raises(MailboxFull, match="narrow holds its limit of 2"):
            ref.tell(4)
        with pytest.raises(MailboxFull):
            ref.ask(4)

        gate.open.set()

        await actors.wait_until_idle()
        assert await ref.ask(5) == 5
        assert gate.left == [1, 2, 3, 5]


async def test_a_mailbox_without_room_cannot_be_had() -> None:
    """A limit of nought is a mistake of the caller."""
    async with Actors() as actors:
        with pytest.raises(ValueError, match="must be positive"):
            actors.spawn(echo, mailbox_len_max=0)


async def test_nothing_is_accepted_before_and_after_the_block() -> None:
    """Outside of `async with` there is nobody to run a letter."""
    actors = Actors()
    with pytest.raises(ShuttingDown):
        actors.spawn(echo)
    async with actors:
        ref = actors.spawn(echo)
    with pytest.raises(ShuttingDown):
        actors.spawn(echo)
    with pytest.raises(ShuttingDown):
        ref.tell(1)
    with pytest.raises(ShuttingDown):
        ref.ask(1)


# ---------------------------------------------------------------- stopping


async def test_a_stop_goes_ahead_of_every_letter_that_waits() -> None:
    """Waiting letters are dead at once, and their asks are answered; what comes later is refused."""
    seen: list[int] = []

    async def handle(message: int) -> None:
        seen.append(message)

    async with Actors() as actors:
        ref = actors.spawn(handle, name="pricing")
        ref.tell(1)
        reply = ref.ask(2)
        ref.stop()

        with pytest.raises(ActorStopped, match="pricing has stopped"):
            await reply
        with pytest.raises(ActorStopped):
            ref.tell(3)
        await actors.wait_until_idle()
        assert seen == []
        assert [letter.message for letter in actors.dead_letters()] == [1, 2]
        assert {letter.reason for letter in actors.dead_letters()} == {DeadLetterReason.STOPPED}
        assert actors.statistics().actors == 0


async def test_a_stop_lets_the_running_letter_finish() -> None:
    """The letter that the actor is inside of is done, and its asker gets the reply."""
    gate = Gate()
    async with Actors() as actors:
        ref = actors.spawn(gate.handle)
        running, waiting = ref.ask("running"), ref.ask("waiting")
        await turns_of_the_loop(3)
        ref.stop()
        gate.open.set()

        assert await running == "running"
        with pytest.raises(ActorStopped):
            await waiting
        assert gate.left == ["running"]


async def test_stopping_again_does_nothing() -> None:
    """An idle actor stops at once, and stays stopped."""
    async with Actors() as actors:
        ref = actors.spawn(echo)
        ref.stop()
        ref.stop()

        assert actors.statistics().actors == 0
        with pytest.raises(ActorStopped) as stopped:
            ref.tell(1)
        assert stopped.value.__cause__ is None


async def test_an_actor_may_stop_itself() -> None:
    """It finishes the letter it is inside of, replies, and takes no other."""

    async def stop_and_reply(message: str) -> str:
        ref.stop()
        return message

    async with Actors() as actors:
        ref = actors.spawn(stop_and_reply)
        last, late = ref.ask("last"), ref.ask("late")

        assert await last == "last"
        with pytest.raises(ActorStopped):
            await late


# ---------------------------------------------------------------- crashes


async def test_a_crash_stops_the_actor(caplog: pytest.LogCaptureFixture) -> None:
    """The asker gets the exception; the letters that wait are dead, and their asks name the crash as the cause."""
    async with Actors() as actors:
        ref = actors.spawn(fail, name="pricing")
        crashing = ref.ask("secret")
        ref.tell("never handled")
        waiting = ref.ask("never handled either")

        with pytest.raises(ValueError, match="secret") as crash:
            await crashing
        with pytest.raises(ActorStopped) as stopped:
            await waiting
        with pytest.raises(ActorStopped) as refused:
            ref.tell("too late")

        assert stopped.value.__cause__ is refused.value.__cause__ is crash.value
        assert [letter.reason for letter in actors.dead_letters()] == ["crashed", "stopped", "stopped"]
        assert {letter.actor for letter in actors.dead_letters()} == {"pricing"}
        statistics = actors.statistics()
        assert (statistics.actors, statistics.crashes, statistics.letters_done) == (0, 1, 0)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("turnkeeper", logging.ERROR)
        assert (record.getMessage(), record.fields) == ("actor.crashed actor=pricing", {"actor": "pricing"})
        assert record.exc_info is not None
        assert record.exc_info[1] is crash.value


async def test_a_crash_on_a_tell_stops_the_actor_too(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits, so the log and the dead letters say it; the worker goes on with other actors."""
    async with Actors() as actors:
        other = actors.spawn(echo)
        actors.spawn(fail).tell("boom")

        assert await other.ask("alive") == "alive"
        assert [letter.message for letter in actors.dead_letters()] == ["boom"]
        assert [record.event for record in caplog.records] == ["actor.crashed"]
        assert actors.statistics().workers == 1


async def test_a_handler_that_is_cancelled_from_within_is_a_crash() -> None:
    """A CancelledError of the handler's own making does not cancel its asker, and does not end the worker."""

    async def await_cancelled(_message: None) -> None:
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    async with Actors() as actors:
        ref = actors.spawn(await_cancelled)

        with pytest.raises(ActorStopped) as stopped:
            await ref.ask(None)

        await turns_of_the_loop(3)

        assert isinstance(stopped.value.__cause__, asyncio.CancelledError)
        assert actors.statistics().workers == 1


async def test_the_latest_thousand_dead_letters_are_kept() -> None:
    """All are counted."""
    async with Actors() as actors:
        ref = actors.spawn(echo)
        for number in range(1_500):
            ref.tell(number)
        ref.stop()

        assert [letter.message for letter in actors.dead_letters()] == list(range(500, 1_500))
        assert actors.statistics().letters_dead == 1_500


# ---------------------------------------------------------------- closing


async def test_leaving_the_block_finishes_what_was_accepted() -> None:
    """Letters that wait, and handlers that are half-way, have time to finish."""
    gate = Gate()
    async with Actors() as actors:
        ref = actors.spawn(gate.handle)
        for number in range(100):
            ref.tell(number)
        await turns_of_the_loop(3)
        asyncio.get_running_loop().call_soon(gate.open.set)

    assert gate.left == list(range(100))
    assert actors.statistics().letters_done == 100
    assert worker_tasks() == []


async def test_leaving_the_block_refuses_new_letters() -> None:
    """Busy or idle, an actor takes none, not even from a handler that is finishing."""
    gate = Gate()
    refused: list[str] = []

    async def try_to_send(_message: None) -> None:
        await gate.open.wait()
        for ref in (busy, idle):
            try:
                ref.tell(None)
            except ShuttingDown:
                refused.append(ref.name)

    async with Actors() as actors:
        busy, idle = actors.spawn(try_to_send, name="busy"), actors.spawn(try_to_send, name="idle")
        busy.tell(None)
        await turns_of_the_loop(3)
        asyncio.get_running_loop().call_soon(gate.open.set)

    assert refused == ["busy", "idle"]
    assert actors.statistics().letters_done == 1


async def test_a_handler_that_outlives_its_cancellation_finishes_its_letter_only() -> None:
    """The block is left when it ends, its asker gets the reply, and the next letter is not begun."""
    begun: list[str] = []

    async def stubborn(message: str) -> str:
        begun.append(message)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await turns_of_the_loop(3)
        return message

    async with Actors(shutdown_s=0) as actors:
        ref = actors.spawn(stubborn)
        running, waiting = ref.ask("running"), ref.ask("waiting")
        await turns_of_the_loop(3)

    assert await running == "running"
    with pytest.raises(ShuttingDown):
        await waiting
    assert begun == ["running"]
    assert worker_tasks() == []


async def test_closing_that_is_cancelled_still_leaves_nothing_behind() -> None:
    """Cancelling cuts the time to finish short; the asks are answered and the workers ended all the same."""
    gate = Gate()
    actors = Actors()
    replies: list[asyncio.Future[Any]] = []

    async def main() -> None:
        async with actors:
            ref = actors.spawn(gate.handle)
            replies.extend([ref.ask(1), ref.ask(2)])

    closing = asyncio.ensure_future(main())
    await turns_of_the_loop(5)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert [type(reply.exception()) for reply in replies] == [ShuttingDown, ShuttingDown]
    assert worker_tasks() == []


async def test_closing_waits_for_handlers_even_if_cancelled_again() -> None:
    """No task outlives the block, however often its owner is cancelled."""
    left: list[str] = []

    async def clean_up_slowly(_message: None) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(10)
            left.append("handler")

    async def main() -> None:
        try:
            async with Actors(shutdown_s=0) as actors:
                actors.spawn(clean_up_slowly).tell(None)
                await turns_of_the_loop(3)
        finally:
            left.append("block")

    closing = asyncio.ensure_future(main())
    for _ in range(5):
        await turns_of_the_loop(2)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert left == ["handler", "block"]
    assert worker_tasks() == []


async def test_a_cancelled_scope_around_the_block_leaves_nothing_behind() -> None:
    """A scope of anyio cancels again at every await, and still gets every ask answered and every worker ended."""
    gate = Gate()
    with anyio.CancelScope() as scope:
        async with Actors() as actors:
            reply = actors.spawn(gate.handle).ask(1)
            await turns_of_the_loop(3)
            scope.cancel()

    assert scope.cancelled_caught
    assert isinstance(reply.exception(), ShuttingDown)
    assert worker_tasks() == []


async def test_a_handler_that_fails_at_its_cancellation_has_crashed() -> None:
    """What goes wrong while cleaning up is logged, and its asker gets it."""

    async def fail_to_clean_up(_message: None) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("unclean")

    async with Actors(shutdown_s=0) as actors:
        reply = actors.spawn(fail_to_clean_up).ask(None)
        await turns_of_the_loop(3)

    with pytest.raises(ValueError, match="unclean"):
        await reply
    assert actors.statistics().crashes == 1


async def test_a_waiter_for_idleness_is_let_go_by_closing() -> None:
    """Even if the letters never had a worker."""
    actors = Actors(shutdown_s=0)
    async with actors:
        actors.spawn(Gate().handle).tell(1)
        waiter = asyncio.ensure_future(actors.wait_until_idle())
        await asyncio.sleep(0)
    await waiter

    assert actors.statistics().letters_dead == 1
