"""Dead letters of supervised actors: kept, counted, and replayed no more than so many times."""

import logging

import pytest
from house import NEVER, House

from turnkeeper.actors.volatile import Actors, Poison


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A captured record would keep the traceback."""
    caplog.set_level(logging.CRITICAL, "turnkeeper")


# ---------------------------------------------------------------- replay


async def test_dead_letters_are_replayed_behind_what_waits() -> None:
    """Oldest first, no more than asked for; done, they are dead no more."""
    async with Actors() as actors:
        house = House(actors, poison=NEVER)
        house.start()
        for number in range(3):
            house.child.tell(("crash once", number))
        await actors.wait_until_idle()
        house.child.stop(0)
        house.child.tell("waits")

        assert house.child.replay(2) == 2
        assert [letter.message for letter in house.child.dead_letters()] == [("crash once", 2)]
        assert actors.dead_letters() == house.child.dead_letters()
        house.seen.clear()
        house.start()
        await actors.wait_until_idle()
        assert house.messages() == ["waits", ("crash once", 0), ("crash once", 1)]
        statistics = actors.statistics()
        assert (statistics.letters_done, statistics.letters_dead) == (3, 1)


async def test_a_letter_is_replayed_no_more_than_so_many_times() -> None:
    """Its crashes are counted through all its lives; then it stays where it is."""
    async with Actors() as actors:
        house = House(actors, poison=Poison(retries_max=1, replays_max=2))
        house.start().tell("crash")
        await actors.wait_until_idle()
        counts = []
        while house.child.replay(10):
            await actors.wait_until_idle()
            counts += [(letter.crashes, letter.replays) for letter in house.child.dead_letters()]

        assert counts == [(4, 1), (6, 2)]
        assert len(house.child.dead_letters()) == 1
        assert actors.statistics().letters_dead == 1


async def test_a_replay_stops_at_a_full_mailbox() -> None:
    """What does not fit stays dead, and nothing is lost."""
    async with Actors() as actors:
        house = House(actors, poison=NEVER, mailbox_len_max=3)
        house.start()
        for number in range(3):
            house.child.tell(("crash", number))
        await actors.wait_until_idle()
        house.child.stop(0)
        house.child.tell("waits")

        assert house.child.replay(10) == 2
        assert house.child.replay(10) == 0
        assert house.child.replay(0) == 0
        assert [letter.message for letter in house.child.dead_letters()] == [("crash", 2)]


async def test_dead_letters_that_are_kept_are_bounded() -> None:
    """The oldest go; none may be kept at all."""
    async with Actors() as actors:
        for kept in (0, 2):
            house = House(actors, poison=Poison(retries_max=0, dead_letters_max=kept))
            house.start()
            for number in range(5):
                house.child.tell(("crash", number))
            await actors.wait_until_idle()

            assert [letter.message[1] for letter in house.child.dead_letters()] == list(range(5))[5 - kept :]
            assert house.child.replay(10) == kept


def test_a_poison_policy_is_checked() -> None:
    """Nothing of it can be negative."""
    for name in Poison.__struct_fields__:
        with pytest.raises(ValueError, match=f"{name} must be zero or more"):
            Poison(**{name: -1})
