"""Stopping supervised actors, and closing them: nothing of an incarnation is left, and no mail is lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest
from house import House, turns_of_the_loop

from turnkeeper.actors.volatile import Actors, Poison
from turnkeeper.kernel.errors import ActorStopped, LetterDead, ShuttingDown
from turnkeeper.kernel.supervision.child import Exit


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A captured record would keep the traceback."""
    caplog.set_level(logging.CRITICAL, "turnkeeper")


# ---------------------------------------------------------------- stopping


async def test_what_is_idle_or_scheduled_is_down_at_once() -> None:
    """Its letters wait; stopping again, or what is down, does nothing; nobody is told."""
    async with Actors() as actors:
        house = House(actors)
        assert house.child.stop(1) is None
        house.start()
        assert house.child.stop(1) is None
        house.start().tell(1)
        assert house.child.stop(1) is None
        assert house.child.stop(1) is None
        await turns_of_the_loop(5)

        assert house.seen == house.exits == []
        assert (actors.statistics().down, actors.statistics().ready) == (1, 0)
        house.start()
        await actors.wait_until_idle()
        assert house.seen == [(3, 1)]


async def test_stopped_and_started_before_the_worker_comes_it_runs_once() -> None:
    """Its place in the queue is its own, however often."""
    async with Actors() as actors:
        house = House(actors)
        house.start()
        replies = [house.child.ask(number) for number in range(70)]
        for _ in range(3):
            assert house.child.stop(1) is None
            house.start()

        assert await asyncio.gather(*replies) == [(4, number) for number in range(70)]
        assert house.messages() == list(range(70))
        house.child.tell("crash once")
        house.child.stop(0)
        await turns_of_the_loop(3)
        house.child.tell("behind")
        house.start()
        await actors.wait_until_idle()
        assert house.messages()[70:] == ["crash once", "crash once", "behind"]


async def test_a_stop_waits_for_the_letter_that_it_is_inside_of() -> None:
    """Which is answered; those behind it wait for the next incarnation; it cannot be started before it is down."""
    async with Actors() as actors:
        house = House(actors)
        running, waiting = house.start().ask("wait"), house.child.ask("waiting")
        await turns_of_the_loop(3)
        stopping, again = house.child.stop(100), house.child.stop(100)
        assert stopping is not None
        assert again is not None
        house.child.tell("late")
        with pytest.raises(RuntimeError, match="still on its way down"):
            house.start()
        house.gate.set()
        await asyncio.gather(stopping, again)

        assert await running == (1, "wait")
        await turns_of_the_loop(3)
        assert house.messages() == ["wait"]
        house.start()
        assert await waiting == (2, "waiting")
        await actors.wait_until_idle()
        assert house.messages() == ["wait", "waiting", "late"]
        assert house.exits == []


async def test_a_stop_cuts_off_what_does_not_finish_in_time() -> None:
    """The letter has not survived it: it is tried again, and then dead. It is no crash, and nobody is told."""
    async with Actors() as actors:
        house = House(actors)
        reply = house.start().ask("wait")
        for _ in range(2):
            await turns_of_the_loop(3)
            stopping = house.child.stop(0)
            assert stopping is not None
            await stopping
            assert not house.child.up
            house.start()

        with pytest.raises(LetterDead) as dead:
            await reply
        assert isinstance(dead.value.__cause__, asyncio.CancelledError)
        assert house.seen == [(1, "wait"), (2, "wait")]
        assert (house.exits, actors.statistics().crashes) == ([], 0)
        assert await house.child.ask("alive") == (3, "alive")


async def test_a_handler_that_swallows_being_cut_off_finishes_its_letter_only() -> None:
    """It is answered, nothing else is begun, and the worker is as good as before."""
    async with Actors() as actors:
        house = House(actors)
        running, waiting = house.start().ask("swallow"), house.child.ask("waiting")
        await turns_of_the_loop(3)
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name() == "turnkeeper.worker"]
        stopping = house.child.stop(0)
        assert stopping is not None
        await stopping

        assert await running == (1, "swallow")
        assert (house.messages(), worker.cancelling()) == (["swallow"], 0)
        house.start()
        assert await waiting == (2, "waiting")


class Deaf:
    """A handler that goes on until its gate is open, however often it is cancelled; then it does as it is told."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[Any] = []
        asyncio.get_running_loop().call_later(5, self.gate.set)  # or a test that fails would hang

    async def handle(self, message: Any) -> Any:
        self.seen.append(message)
        while message in {"return", "crash"} and not self.gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.gate.wait()
        if message == "crash":
            raise ValueError
        return message


@pytest.mark.parametrize("message", ["return", "crash"])
async def test_a_handler_that_would_not_stop_is_given_up(
    message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After its time and its last words; the next incarnation goes on, and the letter ends where it is, once."""
    monkeypatch.setattr("turnkeeper.actors.supervised.LAST_WORDS_S", 0.01)
    caplog.set_level(logging.ERROR, "turnkeeper")
    deaf, exits = Deaf(), list[Exit]()
    async with Actors() as actors:
        child = actors.child(lambda: deaf.handle, name="deaf", poison=Poison(retries_max=3))
        child.start(exits.append)
        running, waiting = child.ask(message), child.ask("behind it")
        await turns_of_the_loop(3)
        stopping = [child.stop(0), child.stop(0)]
        await asyncio.gather(*[one for one in stopping if one is not None])

        assert not deaf.gate.is_set()
        (record,) = caplog.records
        assert (record.event, record.fields["actor"]) == ("actor.would_not_stop", "deaf")
        assert "in handle" in record.fields["at"]
        assert not child.up
        child.start(exits.append)
        assert await waiting == "behind it"
        later = child.ask("later")
        await actors.wait_until_idle()
        deaf.gate.set()
        answer = await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5)
        await turns_of_the_loop(5)

        assert await asyncio.wait_for(later, 5) == "later"
        assert answer == ["return"] if message == "return" else isinstance(answer[0], LetterDead)
        assert deaf.seen == [message, "behind it", "later"]
        assert child.up
        assert exits == []
        assert await asyncio.wait_for(child.ask("alive"), 5) == "alive"
        dead = 0 if message == "return" else 1
        statistics = actors.statistics()
        assert (statistics.letters_done, statistics.letters_dead) == (4 - dead, dead)
        assert (statistics.running, statistics.workers) == (0, 1)


async def test_closing_does_not_wait_for_who_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stop was bounded, and so is what comes after it; once it ends, it does so for good."""
    monkeypatch.setattr("turnkeeper.actors.supervised.LAST_WORDS_S", 0.01)
    deaf = Deaf()
    async with Actors(shutdown_s=0) as actors:
        child = actors.child(lambda: deaf.handle)
        child.start(lambda _exit: None)
        child.tell("return")
        await turns_of_the_loop(3)
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name() == "turnkeeper.worker"]
        stopping = child.stop(0)
        assert stopping is not None
        await stopping

    assert not deaf.gate.is_set()
    deaf.gate.set()
    await asyncio.wait([worker], timeout=5)
    assert worker.cancelled()


async def test_a_crash_on_the_way_down_is_not_told() -> None:
    """It is counted and logged, and its letter is kept."""
    async with Actors() as actors:
        house = House(actors)
        reply = house.start().ask("wait")
        await turns_of_the_loop(3)
        stopping = house.child.stop(100)
        assert stopping is not None
        house.gate.wait = fail  # type: ignore[method-assign]
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name() == "turnkeeper.worker"]
        worker.cancel()
        await stopping

        assert house.exits == []
        del house.gate.wait
        house.gate.set()
        house.start()
        assert await reply == (2, "wait")


async def fail() -> None:
    """Raise."""
    raise ValueError


async def test_a_stop_whose_awaiter_is_cancelled_still_leaves_nothing() -> None:
    """The time is cut short instead."""
    async with Actors() as actors:
        house = House(actors)
        house.start().tell("wait")
        await turns_of_the_loop(3)
        stopping = house.child.stop(1_000)
        assert stopping is not None
        task = asyncio.ensure_future(stopping)
        await turns_of_the_loop(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert actors.statistics().running == 0
        assert actors.statistics().down == 1


async def test_a_handler_may_stop_its_own_actor() -> None:
    """It finishes the letter that it is inside of, and does not wait for itself."""
    async with Actors() as actors:
        seen: list[Any] = []

        def build() -> Callable[[Any], Any]:
            async def handle(message: Any) -> Any:
                seen.append(message)
                assert child.stop(1) is None
                return message

            return handle

        child = actors.child(build)
        child.start(lambda _exit: None)
        reply = child.ask(1)
        child.tell(2)
        assert await reply == 1
        await turns_of_the_loop(3)
        assert (seen, child.up) == ([1], False)


async def test_retiring_finishes_the_letter_that_it_is_inside_of() -> None:
    """A stop waits for that even then."""
    async with Actors() as actors:
        house = House(actors)
        running, waiting = house.start().ask("wait"), house.child.ask("waiting")
        await turns_of_the_loop(3)
        house.child.retire()
        with pytest.raises(ActorStopped):
            await waiting
        stopping = house.child.stop(100)
        assert stopping is not None
        house.gate.set()
        await stopping

        assert await running == (1, "wait")
        assert house.child.stop(100) is None


async def test_exited_may_stop_start_and_retire() -> None:
    """Whatever a supervisor does from within, the mail is where it belongs."""
    async with Actors() as actors:
        house = House(actors)
        sibling = House(actors)

        def exited(exit_: Exit) -> None:
            house.exits.append(exit_)
            if len(house.exits) < 3:
                house.child.start(exited)
                assert house.child.stop(1) is None
                assert sibling.child.stop(1) is None
                sibling.start()
                house.child.start(exited)
            else:
                house.child.retire()

        house.child.start(exited)
        sibling.start().tell("mail")
        house.child.tell("crash once")
        await house.child.ask("alive")
        with pytest.raises(LetterDead):
            await house.child.ask("crash")
        with pytest.raises(ActorStopped):
            house.child.tell("late")
        assert house.messages() == ["crash once", "crash once", "alive", "crash", "crash"]
        assert sibling.messages() == ["mail"]


# ---------------------------------------------------------------- closing


async def test_closing_answers_what_waits_for_a_start() -> None:
    """It does not wait for that, takes no letter, and starts nothing once closed."""
    async with Actors(shutdown_s=1_000) as actors:
        house = House(actors)
        reply = house.child.ask(1)
    with pytest.raises(ShuttingDown):
        await reply
    with pytest.raises(ShuttingDown):
        house.child.tell(2)
    with pytest.raises(ShuttingDown):
        house.start()
    with pytest.raises(ShuttingDown):
        house.child.replay(1)

    assert (actors.statistics().letters_dead, actors.statistics().down) == (1, 0)


async def test_a_crash_while_the_actors_finish_is_started_again_and_finishes() -> None:
    """The grace is for what was accepted; what comes then is refused, up or down."""
    async with Actors() as actors:
        house = House(actors)
        replies = [house.start().ask("wait"), house.child.ask("crash once"), house.child.ask("last")]
        await turns_of_the_loop(3)
        asyncio.get_running_loop().call_soon(house.gate.set)

    assert [await reply for reply in replies] == [(1, "wait"), (2, "crash once"), (2, "last")]


async def test_a_handler_that_crashes_while_it_is_closed_is_not_started_again() -> None:
    """What it raises while cleaning up counts as the crash; every letter is dead, and nobody is told."""

    async def fail_to_clean_up(message: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            if message:
                raise ValueError("unclean")

    exits: list[Exit] = []
    async with Actors(shutdown_s=0) as actors:
        children = [actors.child(lambda: fail_to_clean_up) for _ in range(2)]
        for child in children:
            child.start(exits.append)
        replies = [child.ask(message) for child in children for message in (child is children[0], 2)]
        await turns_of_the_loop(5)

    answers = await asyncio.gather(*replies, return_exceptions=True)
    assert [type(answer) for answer in answers] == [LetterDead, ShuttingDown, ShuttingDown, ShuttingDown]
    assert exits == []
    assert (actors.statistics().crashes, actors.statistics().letters_dead) == (1, 4)


async def test_closing_lets_go_of_who_waits_for_a_stop() -> None:
    """The worker is cancelled, and so it is down."""
    async with Actors(shutdown_s=0) as actors:
        house = House(actors)
        house.start().tell("wait")
        await turns_of_the_loop(3)
        stopping = house.child.stop(1_000)
        assert stopping is not None
        task = asyncio.ensure_future(stopping)
    await task

    assert actors.statistics().letters_dead == 1
