"""Supervised actors: a crash keeps the mail, and what it died of is tried again."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from house import NEVER, House, turns_of_the_loop

from turnkeeper.actors.volatile import Actors, DeadLetterReason, Poison
from turnkeeper.kernel.errors import ActorStopped, LetterDead, MailboxFull
from turnkeeper.kernel.supervision.child import Child, Exit


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A captured record would keep the traceback."""
    caplog.set_level(logging.CRITICAL, "turnkeeper")


# ---------------------------------------------------------------- down, up


async def test_letters_wait_until_it_is_started() -> None:
    """Tells and asks, in order; nothing runs before."""
    async with Actors() as actors:
        house = House(actors)
        child: Child = house.child
        house.child.tell(1)
        reply = house.child.ask(2)
        await turns_of_the_loop(5)

        assert house.seen == []
        assert (actors.statistics().down, actors.statistics().ready) == (1, 0)

        assert child.start(house.exited) is None

        assert await reply == (1, 2)
        assert house.seen == [(1, 1), (1, 2)]
        assert actors.statistics().down == 0


async def test_a_mailbox_is_bounded_while_it_is_down() -> None:
    """One letter more is refused; there is room again once it runs."""
    async with Actors() as actors:
        house = House(actors, mailbox_len_max=2)
        house.child.tell(1)
        house.child.tell(2)

        with pytest.raises(MailboxFull, match="house holds its limit of 2"):
            house.child.tell(3)

        house.start()
        await actors.wait_until_idle()
        assert await house.child.ask(4) == (1, 4)
        assert house.messages() == [1, 2, 4]


async def test_a_full_mailbox_has_a_place_for_what_is_delivered_again() -> None:
    """It was accepted once, and is not refused for those behind it."""
    async with Actors() as actors:
        house = House(actors, mailbox_len_max=2, restart=False)
        house.start().tell("crash once")
        house.child.tell(2)
        await actors.wait_until_idle()
        house.child.tell(3) if len(house.child.letters or ()) < 2 else None
        with pytest.raises(MailboxFull):
            house.child.tell(4)
        house.start()
        await actors.wait_until_idle()

        assert house.messages() == ["crash once", "crash once", 2]


async def test_a_started_actor_cannot_be_started_again() -> None:
    """What is up goes on, with its state, and its own supervisor is told."""
    told: list[Exit] = []
    async with Actors() as actors:
        house = House(actors)
        house.start()
        with pytest.raises(RuntimeError, match="house is up"):
            house.child.start(told.append)

        assert house.built == 1
        await house.child.ask("crash once")
        assert (len(house.exits), told) == (1, [])


async def test_a_factory_that_raises_leaves_it_down() -> None:
    """The starter gets it; letters wait for a factory that works, as after any number of failures."""
    async with Actors() as actors:
        house = House(actors)
        house.broken = OSError("no disk")
        reply = house.child.ask("mail")
        for _ in range(3):
            with pytest.raises(OSError, match="no disk"):
                house.start()
        await turns_of_the_loop(3)
        house.broken = None
        house.start()

        assert await reply == (1, "mail")
        assert house.exits == []


async def test_a_factory_that_raises_within_exited_leaves_the_worker_alive() -> None:
    """A supervisor that lets it through has made a mistake; other actors go on, and it can be started later."""
    async with Actors() as actors:
        house = House(actors)
        other = House(actors)
        other.start()
        house.start().tell("wait")
        house.child.tell("crash once")
        await turns_of_the_loop(3)
        house.broken = OSError("no disk")
        house.gate.set()
        await actors.wait_until_idle()

        assert await other.child.ask("alive") == (1, "alive")
        assert not house.child.up
        house.broken = None
        house.start()
        assert await house.child.ask("later") == (2, "later")
        assert house.messages() == ["wait", "crash once", "crash once", "later"]


async def test_a_factory_may_send_to_its_actor_and_may_retire_it() -> None:
    """The letter waits behind the others; what was retired meanwhile does not come up."""
    async with Actors() as actors:

        def build() -> Callable[[Any], Any]:
            child.tell("from the factory")
            return house.build()

        house = House(actors)
        child = actors.child(build)
        child.tell("first")
        child.start(house.exited)
        await actors.wait_until_idle()
        assert house.messages() == ["first", "from the factory"]

        def give_up() -> Callable[[Any], Any]:
            second.retire()
            return house.build()

        second = actors.child(give_up)
        with pytest.raises(ActorStopped):
            second.start(house.exited)
        assert not second.up


# ---------------------------------------------------------------- crashes


async def test_a_crash_keeps_the_mail_and_nothing_of_the_state() -> None:
    """The letter is delivered first, to a fresh incarnation; those behind it follow in order."""
    async with Actors() as actors:
        house = House(actors)
        house.child.tell("before")
        house.child.tell("crash once")
        reply = house.child.ask("after")
        house.start()

        assert await reply == (2, "after")
        assert house.seen == [(1, "before"), (1, "crash once"), (2, "crash once"), (2, "after")]
        assert house.exits == [Exit("crashed", normal=False, error="ValueError")]
        statistics = actors.statistics()
        assert (statistics.letters_done, statistics.letters_dead, statistics.crashes) == (3, 0, 1)
        assert actors.dead_letters() == []


async def test_an_ask_that_is_delivered_again_is_answered_by_the_later_incarnation() -> None:
    """Its asker does not see the crash."""
    async with Actors() as actors:
        house = House(actors)
        house.start()

        assert await house.child.ask("crash once") == (2, "crash once")


async def test_an_ask_that_is_dead_names_the_crash() -> None:
    """After its retries; the actor is up, and takes letters."""
    async with Actors() as actors:
        house = House(actors, poison=Poison(retries_max=2))
        house.start()

        with pytest.raises(LetterDead, match="the letter to house is dead") as dead_letter:
            await house.child.ask("crash")

        assert (dead_letter.value.actor, dead_letter.value.crash) == ("house", "ValueError")
        assert isinstance(dead_letter.value.__cause__, ValueError)
        assert not dead_letter.value.retryable
        assert house.seen == [(1, "crash"), (2, "crash"), (3, "crash")]
        assert await house.child.ask("alive") == (4, "alive")
        (dead,) = house.child.dead_letters()
        assert actors.dead_letters() == [dead]
        assert (dead.actor, dead.message, dead.reason) == ("house", "crash", DeadLetterReason.CRASHED)
        assert (dead.error, dead.crashes, dead.replays) == ("ValueError", 3, 0)


async def test_two_letters_of_one_object_have_retries_of_their_own() -> None:
    """What a letter did is remembered with the letter, not with its message."""
    async with Actors() as actors:
        house = House(actors)
        house.start()
        for _ in range(3):
            await house.child.ask("crash once")
            house.crashed.clear()

        assert house.child.dead_letters() == []


async def test_crashes_between_letters_of_several_senders_keep_the_order_of_each() -> None:
    """Some are delivered twice, in place."""
    async with Actors() as actors:
        house = House(actors)
        house.start()

        async def send(sender: int) -> None:
            for number in range(100):
                what = "crash once" if number % 7 == sender else "work"
                if number % 5:
                    house.child.tell((what, sender, number))
                else:
                    await house.child.ask((what, sender, number))
                if number % 3 == sender:
                    await asyncio.sleep(0)

        await asyncio.gather(*(send(sender) for sender in range(3)))
        await actors.wait_until_idle()

        for sender in range(3):
            numbers = [message[2] for message in house.messages() if message[1] == sender]
            assert numbers == sorted(numbers)
            assert set(numbers) == set(range(100))
        assert actors.statistics().letters_done == 300


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_thousand_crashes_in_a_row_neither_recurse_nor_starve_the_loop(retries: int) -> None:
    """The supervisor that starts it from within `exited` is no deeper at the thousandth, and others have their turn."""
    async with Actors() as actors:
        house = House(actors, poison=Poison(retries_max=retries))
        neighbour = House(actors)
        for number in range(1_000):
            house.child.tell(("crash", number))
        house.start()
        neighbour.start()
        most, before = 0, 0
        while before < 1_000 * (retries + 1):
            await asyncio.sleep(0)
            most = max(most, len(house.exits) - before)
            before = len(house.exits)
            if before < 500:
                await neighbour.child.ask(1)

        assert house.messages() == [("crash", number) for number in range(1_000) for _ in range(retries + 1)]
        assert most <= 2 * 256 // 17 + 2  # two turns of the loop, a crash counting as 17 letters
        assert actors.statistics().letters_dead == 1_000
        assert len(house.child.dead_letters()) == 100
        assert actors.statistics().workers <= 2


async def test_one_that_is_never_started_again_keeps_its_mail_until_it_is_retired() -> None:
    """Retiring is the end: asks get the crash as the cause."""
    async with Actors() as actors:
        house = House(actors, restart=False)
        house.start().tell("crash once")
        reply = house.child.ask("waits")
        await actors.wait_until_idle()

        assert actors.statistics().down == 1
        house.child.retire()
        house.child.retire()

        with pytest.raises(ActorStopped) as stopped:
            await reply
        assert isinstance(stopped.value.__cause__, ValueError)
        with pytest.raises(ActorStopped):
            house.child.tell("late")
        with pytest.raises(ActorStopped):
            house.start()
        with pytest.raises(ActorStopped):
            house.child.replay(1)
        assert [letter.reason for letter in actors.dead_letters()] == ["stopped", "stopped"]
        assert (actors.statistics().actors, actors.statistics().down) == (0, 0)


async def test_started_again_later_it_goes_on_where_it_was() -> None:
    """Letters that came meanwhile are behind the one that it died of."""
    async with Actors() as actors:
        house = House(actors, restart=False)
        house.start().tell("crash once")
        await actors.wait_until_idle()
        house.child.tell("meanwhile")
        house.start()
        await actors.wait_until_idle()

        assert house.seen == [(1, "crash once"), (2, "crash once"), (2, "meanwhile")]


async def test_a_cancelled_asker_takes_nothing_from_a_letter_that_is_delivered_again() -> None:
    """Before the crash or after it, in life and in death."""
    async with Actors() as actors:
        house = House(actors, restart=False)
        house.start()
        for message in ("crash once", "crash"):
            reply = house.child.ask(message)
            await actors.wait_until_idle()
            reply.cancel()
            house.start()
            await actors.wait_until_idle()
        gone = house.start().ask("crash")
        gone.cancel()
        await actors.wait_until_idle()

        assert [letter.message for letter in house.child.dead_letters()] == ["crash"]
        assert actors.statistics().letters_done == 1


async def test_a_handler_that_is_cancelled_from_within_is_a_crash() -> None:
    """It does not end the worker, and is tried again like any other."""
    async with Actors() as actors:
        house = House(actors)
        house.start()

        with pytest.raises(LetterDead) as dead:
            await house.child.ask(("raise", asyncio.CancelledError()))

        assert isinstance(dead.value.__cause__, asyncio.CancelledError)
        assert [exit_.error for exit_ in house.exits] == ["CancelledError"] * 2
        assert await house.child.ask("alive") == (3, "alive")
        assert actors.statistics().workers == 1


def test_an_exit_raised_by_a_handler_ends_the_process_in_order() -> None:
    """The letter is dead at once: a loop that comes back to life to close does not raise it again."""
    houses: list[House] = []
    actors = Actors()
    replies: list[asyncio.Future[Any]] = []

    async def main() -> None:
        async with actors:
            houses.append(House(actors, poison=Poison(retries_max=5)))
            houses[0].start()
            replies.append(houses[0].child.ask(("raise", SystemExit(3))))
            replies.append(houses[0].child.ask("behind it"))
            await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        asyncio.run(main())

    assert isinstance(replies[0].exception(), LetterDead)
    assert replies[1].done()
    assert len(houses[0].exits) == 1
    assert actors.statistics().letters_dead + actors.statistics().letters_done == 2
    assert actors.statistics().workers == 0


async def test_a_cancelled_worker_is_a_crash_that_loses_no_mail() -> None:
    """Started from within `exited`, it is reached by another worker."""
    async with Actors() as actors:
        house = House(actors)
        reply, behind = house.start().ask("wait"), house.child.ask("behind")
        await turns_of_the_loop(3)
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name() == "turnkeeper.worker"]
        worker.cancel()
        house.gate.set()

        assert await reply == (2, "wait")
        assert await behind == (2, "behind")
        assert worker.cancelled()


# ---------------------------------------------------------------- logs, memory


async def test_no_crash_is_silent_and_a_storm_is_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """One of each place is logged with its traceback, the others counted by actor and error, at the end at last."""
    caplog.set_level(logging.ERROR, "turnkeeper")
    async with Actors() as actors:
        house = House(actors, poison=NEVER)
        house.start()
        for number in range(500):
            house.child.tell(("crash", number))
        await actors.wait_until_idle()
        crowd = [actors.child(house.build, name=f"child {number}", poison=NEVER) for number in range(150)]
        for child in crowd:
            child.start(lambda _exit: None)
            child.tell("crash")
        await actors.wait_until_idle()

        assert [record.getMessage() for record in caplog.records] == ["actor.crashed actor=house"]
        assert caplog.records[0].exc_info is not None
    record = caplog.records[-1]
    actors, others = record.fields["actors"], record.fields["others"]
    assert (record.event, record.fields["crashes"]) == ("actor.crashes", 649)
    assert actors["house: ValueError"] == 499
    assert len(actors) == 100
    assert sum(actors.values()) + others == 649
    assert len(caplog.records) == 2


async def test_a_storm_in_one_place_hides_no_crash_in_another(caplog: pytest.LogCaptureFixture) -> None:
    """Ten places a second have their traceback, however often the first of them crashes before."""
    caplog.set_level(logging.ERROR, "turnkeeper")
    kinds = [type(f"Kind{number}", (Exception,), {}) for number in range(12)]
    async with Actors() as actors:
        house = House(actors, poison=NEVER)
        house.start()
        for message in [*["crash"] * 50, *[("raise", kind()) for kind in kinds]]:
            house.child.tell(message)
        await actors.wait_until_idle()

        seen = [record.exc_info[0] for record in caplog.records if record.exc_info]
        assert seen == [ValueError, *kinds[:9]]
    assert caplog.records[-1].fields["crashes"] == 49 + 3


async def test_of_a_storm_that_is_not_shown_nothing_is_formatted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A level that hides it also spares its cost."""
    rendered = []
    monkeypatch.setattr("turnkeeper.actors.node._printable", rendered.append)
    caplog.set_level(logging.CRITICAL, "turnkeeper")
    async with Actors() as actors:
        house = House(actors, poison=NEVER)
        house.start()
        for _ in range(50):
            house.child.tell("crash")
        await actors.wait_until_idle()

    assert actors.statistics().crashes == 50
    assert rendered == []


class Payload:
    """A message that can be watched."""


async def test_an_actor_that_nobody_refers_to_is_gone_with_what_it_made() -> None:
    """Without a collection of garbage: crashes, restarts and stops leave no cycle through the dispatcher."""

    class State:
        async def handle(self, message: Any) -> None:
            if message is not None:
                raise ValueError("crash")

    states: list[weakref.ref[State]] = []

    def build() -> Callable[[Any], Any]:
        state = State()
        states.append(weakref.ref(state))
        return state.handle

    made = weakref.ref(build)
    payload = Payload()
    alive = weakref.ref(payload)
    gc.disable()
    try:
        async with Actors() as actors:
            child = actors.child(build, poison=Poison(retries_max=1, dead_letters_max=0))
            child.start(lambda _exit: None)
            child.tell(payload)
            del payload
            await actors.wait_until_idle()
            await turns_of_the_loop(3)
            child.start(lambda _exit: None)
            await actors.wait_until_idle()
            await turns_of_the_loop(3)
            child.start(lambda _exit: None)
            await child.ask(None)
            assert child.stop(1) is None
            await turns_of_the_loop(3)

            assert [state() for state in states] == [None] * 3
            actors._dispatcher.ledger.dead_letters.clear()
            assert alive() is None
            del child, build
            assert made() is None
    finally:
        gc.enable()
