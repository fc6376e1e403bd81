"""The tables of supervision: slots, strategies, intensity, liveness, desired state; every pair of each."""

from itertools import product
from pathlib import Path

import pytest

from turnkeeper.kernel.errors import StaleIncarnation, VerbRefused
from turnkeeper.kernel.supervision import desired, liveness, slot
from turnkeeper.kernel.supervision.child import Restart
from turnkeeper.kernel.supervision.desired import Desired, Verb, desired_after
from turnkeeper.kernel.supervision.intensity import Intensity, Window
from turnkeeper.kernel.supervision.liveness import Health, Limits, Pulse, Sign
from turnkeeper.kernel.supervision.slot import Action, Event, Slot, SlotState
from turnkeeper.kernel.supervision.strategy import Strategy, affected

# ---------------------------------------------------------------- slots


@pytest.mark.parametrize(("state", "event"), list(product(SlotState, Event)))
def test_every_pair_of_the_slot_machine_does_what_its_table_says(state: SlotState, event: Event) -> None:
    """What the table has not comes from an incarnation that is gone, and changes nothing but the wish."""
    before = Slot(state, 3, wanted=state in {SlotState.SPAWNING, SlotState.RUNNING})

    after, action = before.after(event, 3)

    assert (after.state, action) == slot.TRANSITIONS.get((state, event), (state, Action.NOTHING))
    assert after.incarnation == 3 + (action is Action.START)


@pytest.mark.parametrize(("state", "event"), list(product(SlotState, (Event.STARTED, Event.EXITED))))
def test_what_is_of_another_incarnation_counts_for_nothing(state: SlotState, event: Event) -> None:
    """The late exit of a child that has been started anew must not end its successor."""
    before = Slot(state, 3, wanted=True)

    assert before.after(event, 2) == (before, Action.NOTHING)
    assert before.after(event, 4) == (before, Action.NOTHING)


def test_a_thousand_wishes_are_one_start() -> None:
    """`ensure_running` is idempotent."""
    place, starts = Slot(), 0
    for _ in range(1_000):
        place, action = place.after(Event.ENSURE)
        starts += action is Action.START

    assert (starts, place.state, place.incarnation) == (1, SlotState.SPAWNING, 1)


def test_a_stop_during_spawning_wins() -> None:
    """The start that comes up late is of no avail."""
    place, _ = Slot().after(Event.ENSURE)
    place, stop = place.after(Event.STOP)
    place, nothing = place.after(Event.STARTED, 1)
    down, last = place.after(Event.EXITED, 1)

    assert (stop, nothing, last) == (Action.STOP, Action.NOTHING, Action.NOTHING)
    assert down == Slot(SlotState.IDLE, 1, wanted=False)


def test_a_wish_while_it_stops_is_kept() -> None:
    """Whoever wants it then gets the next incarnation, not the one that goes."""
    place = Slot(SlotState.STOPPING, 1, wanted=False)
    place, _ = place.after(Event.ENSURE)
    down, _ = place.after(Event.EXITED, 1)
    stopped, _ = place.after(Event.STOP)

    assert down == Slot(SlotState.IDLE, 1, wanted=True)
    assert stopped.after(Event.EXITED, 1)[0].wanted is False


def test_the_diagram_of_slots_shows_each_change_of_state() -> None:
    """And nothing that changes nothing."""
    shown = slot.diagram().splitlines()[2:]

    changes = [key for key, (after, action) in slot.TRANSITIONS.items() if (after, action) != (key[0], Action.NOTHING)]

    assert len(shown) == len(changes)
    assert "    idle --> spawning: ensure / start" in shown


def test_the_page_shows_the_diagram_as_the_table_prints_it() -> None:
    """So the page cannot fall behind the code."""
    page = Path(__file__).parents[2] / "docs" / "supervising.md"

    assert f"```mermaid\n{slot.diagram()}\n```" in page.read_text(encoding="utf-8")


# ---------------------------------------------------------------- who comes back


@pytest.mark.parametrize(
    ("restart", "normal", "wanted"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.PERMANENT, False, True),
        (Restart.TRANSIENT, True, False),
        (Restart.TRANSIENT, False, True),
        (Restart.TEMPORARY, True, False),
        (Restart.TEMPORARY, False, False),
    ],
)
def test_whether_a_child_comes_back(restart: Restart, normal: bool, wanted: bool) -> None:
    """Permanent always, transient after a crash, temporary never."""
    assert restart.wanted(normal=normal) is wanted


@pytest.mark.parametrize(
    ("strategy", "exited", "anew"),
    [
        (Strategy.ONE_FOR_ONE, "b", ["b"]),
        (Strategy.ONE_FOR_ALL, "b", ["a", "b", "c"]),
        (Strategy.REST_FOR_ONE, "a", ["a", "b", "c"]),
        (Strategy.REST_FOR_ONE, "b", ["b", "c"]),
        (Strategy.REST_FOR_ONE, "c", ["c"]),
    ],
)
def test_who_is_started_anew(strategy: Strategy, exited: str, anew: list[str]) -> None:
    """In the order of their starts."""
    assert affected(strategy, ["a", "b", "c"], exited) == anew


def test_restarts_within_the_window_are_numbered_and_one_too_many_is_none() -> None:
    """The window slides: what is older than it no longer counts."""
    intensity, window = Intensity(restarts_max=3, within_s=10.0), Window()

    assert [window.restart(intensity, now) for now in (0.0, 1.0, 2.0, 9.0)] == [1, 2, 3, None]
    assert window.restart(intensity, 10.0) == 3  # the first is over
    assert window.restart(intensity, 10.5) is None
    assert window.count(intensity, 30.0) == 0


def test_the_default_pauses_are_0_30_and_60_s_and_longer_by_the_jitter() -> None:
    """The contract's figures."""
    intensity = Intensity()

    assert [intensity.pause_s(number, 0.0) for number in (1, 2, 3, 10)] == [0.0, 30.0, 60.0, 60.0]
    assert (intensity.restarts_max, intensity.within_s) == (10, 600.0)
    assert intensity.pause_s(2, 0.5) == pytest.approx(30.0 * (1 + intensity.jitter / 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"restarts_max": -1},
        {"within_s": 0.0},
        {"within_s": float("inf")},
        {"within_s": float("nan")},
        {"pauses_s": ()},
        {"pauses_s": (1.0, -1.0)},
        {"pauses_s": (float("nan"),)},
        {"jitter": 1.5},
    ],
)
def test_an_intensity_that_cannot_be_kept_is_refused_by_the_name_of_its_value(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Intensity(**wrong)


# ---------------------------------------------------------------- liveness

LIMITS = Limits(silent_s=10.0, grace_s=5.0)


@pytest.mark.parametrize(("health", "sign"), list(product(Health, Sign)))
def test_every_pair_of_liveness_does_what_its_table_says(health: Health, sign: Sign) -> None:
    """The dead have no pair: a beat of theirs is refused, silence changes nothing."""
    pulse, after = Pulse(1, 0.0, 0.0, health), liveness.TRANSITIONS.get((health, sign))
    if sign is Sign.SILENCE:
        assert pulse.looked_at(LIMITS, 100.0).health is (after or health)
    elif after is None:
        with pytest.raises(StaleIncarnation):
            pulse.beaten(1, 1.0)
    else:
        assert pulse.beaten(1, 1.0) == Pulse(1, 1.0, 0.0, after)


def test_death_has_two_phases_and_looking_late_skips_none() -> None:
    """A sweep that was held up must not kill at its first look."""
    pulse = Pulse(1, beat_at=0.0, progress_at=0.0)

    assert pulse.looked_at(LIMITS, 9.9).health is Health.ALIVE
    suspect = pulse.looked_at(LIMITS, 1_000.0)
    assert suspect.health is Health.SUSPECT
    assert suspect.beaten(1, 1_001.0).health is Health.ALIVE
    assert pulse.looked_at(LIMITS, 10.0).looked_at(LIMITS, 14.9).health is Health.SUSPECT
    assert pulse.looked_at(LIMITS, 10.0).looked_at(LIMITS, 15.0).health is Health.DEAD
    assert suspect.looked_at(LIMITS, 1_004.9).health is Health.SUSPECT
    assert suspect.looked_at(LIMITS, 1_005.0).health is Health.DEAD


def test_the_beat_of_a_stale_incarnation_is_refused() -> None:
    with pytest.raises(StaleIncarnation, match="incarnation 1 is gone; 2"):
        Pulse(2, 0.0, 0.0).beaten(1, 1.0)


def test_alive_and_getting_on_are_apart() -> None:
    """Who beats without getting on is not suspect; when it last got on is known."""
    pulse = Pulse(1, 0.0, 0.0)
    for now in range(1, 61):
        pulse = pulse.beaten(1, float(now))

    assert pulse.looked_at(LIMITS, 60.0).health is Health.ALIVE
    assert (pulse.progress_at, pulse.beaten(1, 61.0, progress=True).progress_at) == (0.0, 61.0)


def test_when_to_look_next() -> None:
    """At the end of silence, or of the grace."""
    assert Pulse(1, 5.0, 0.0).due_at(LIMITS) == 15.0
    assert Pulse(1, 5.0, 0.0, Health.SUSPECT, 17.0).due_at(LIMITS) == 22.0


# ---------------------------------------------------------------- desired state


@pytest.mark.parametrize(("before", "verb"), list(product(Desired, Verb)))
def test_every_pair_of_desired_state_does_what_its_table_says(before: Desired, verb: Verb) -> None:
    """A verb that means nothing is refused."""
    after = desired.TRANSITIONS.get((before, verb))
    if after is None:
        with pytest.raises(VerbRefused, match=f"{verb} means nothing to what is {before}"):
            desired_after(before, verb)
    else:
        assert desired_after(before, verb) is after


def test_a_quarantine_ends_by_its_release_alone() -> None:
    """Or a script that resumes everything would end it by the way."""
    ends = [verb for verb in Verb if desired.TRANSITIONS.get((Desired.QUARANTINED, verb)) is Desired.RUNNING]

    assert ends == [Verb.RELEASE]


def test_the_diagram_of_desired_state_has_a_line_for_each_change() -> None:
    lines = desired.diagram().splitlines()

    assert len(lines) == 2 + sum(before != after for (before, _), after in desired.TRANSITIONS.items())
