"""Bugs of supervision: two incarnations at once, late exits that count, stops that lose, restarts without an end."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["TREES"]

_TABLES = "tests/kernel/test_supervision.py"
_slot = partial(Mutant, where="kernel.supervision.slot", tries=("trees",))
_place = partial(Mutant, where="supervisors.place", tries=("trees",))
_supervisor = partial(Mutant, where="supervisors.supervisor", tries=("trees",))
_table = partial(Mutant, tries=(_TABLES,))

TREES: Final[tuple[Mutant, ...]] = (
    _slot(
        name="a stop during spawning does not win",
        edits=(("(_SPAWNING, _STOP): (_STOPPING, Action.STOP)", "(_SPAWNING, _STOP): (_SPAWNING, Action.NOTHING)"),),
    ),
    _slot(
        name="a child that stops can be started beside the one that goes",
        found_by="test_a_wish_while_it_stops_is_kept",
        edits=(
            ("(_STOPPING, _ENSURE): (_STOPPING, Action.NOTHING)", "(_STOPPING, _ENSURE): (_SPAWNING, Action.START)"),
        ),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _slot(
        name="a child on its way up is started again for each who asks",
        edits=(
            ("(_SPAWNING, _ENSURE): (_SPAWNING, Action.NOTHING)", "(_SPAWNING, _ENSURE): (_SPAWNING, Action.START)"),
        ),
    ),
    _slot(
        name="a wish that comes while a child stops is forgotten",
        found_by="test_a_wish_while_it_stops_is_kept",
        edits=(("self.wanted and (event is Event.STARTED or self.state is SlotState.STOPPING)", "False"),),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _table(
        name="a late exit of an older incarnation frees the slot of the next",
        found_by="test_what_is_of_another_incarnation_counts_for_nothing",
        where="kernel.supervision.slot",
        edits=(("        if incarnation is not None and incarnation != self.incarnation:", "        if False:"),),
        point="12: a zombie completing after expiry",
    ),
    _place(
        name="a late exit of an older incarnation is heard as the next one's",
        edits=(
            (
                "        if number == self.slot.incarnation and self.slot.state in {SlotState.SPAWNING, SlotState.RUNNING}:\n            self.slot, _ = self.slot.after(Event.EXITED, number)",
                "        if self.slot.state in {SlotState.SPAWNING, SlotState.RUNNING}:\n            self.slot, _ = self.slot.after(Event.EXITED)",
            ),
        ),
        point="12: a zombie completing after expiry",
    ),
    _place(
        name="an end while a child is being stopped counts as down, before it is",
        found_by="test_a_child_that_falls_while_it_is_being_stopped_is_down_once_the_stop_is",
        edits=(
            (
                "self.slot.state in {SlotState.SPAWNING, SlotState.RUNNING}:\n            self.slot",
                "self.slot.state is not SlotState.IDLE:\n            self.slot",
            ),
        ),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _place(
        name="a start is not taken back before its child is stopped",
        edits=(("                starting.cancel()\n                await self._bounded(starting)\n", ""),),
    ),
    _place(
        name="a stopped child keeps the restart that waits for its pause",
        edits=(("        self.disarm()\n        starting = self.work", "        starting = self.work"),),
    ),
    _supervisor(
        name="a stop that was told is not waited for",
        edits=(("            await place.over(stopping)\n", ""),),
    ),
    _supervisor(
        name="what was put away is brought back when it falls",
        found_by="test_a_paused_child_goes_on_and_is_not_brought_back_before_it_is_resumed",
        edits=(("if place.desired is not Desired.RUNNING or not place", "if not place"),),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _supervisor(
        name="a temporary child is brought back",
        found_by="test_a_spec_says_who_comes_back",
        edits=((" or not place.spec.restart.wanted(normal=exit_.normal)", ""),),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _supervisor(
        name="children are stopped in the order of their starts",
        found_by="test_children_start_in_order_and_stop_in_reverse",
        edits=(("for place in reversed(list(self._places.values())):", "for place in list(self._places.values()):"),),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    Mutant(
        name="what stands on a fallen child is not stopped before it is started anew",
        found_by="test_a_strategy_says_who_is_started_anew",
        where="supervisors.rounds",
        edits=(("                await place.over(place.end())\n", ""),),
        tries=("tests/supervisors/test_rounds.py",),
    ),
    _supervisor(
        name="a pause is cut short by whoever asks",
        found_by="test_pauses_are_kept_and_nobody_cuts_them_short",
        edits=(
            (
                " and place.timer is None and place",
                " and place",
            ),
        ),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _supervisor(
        name="a subtree that gives up does not tell its parent",
        edits=(
            (
                "        if self._told is not None:\n            self._told(Exit",
                "        if False:\n            self._told(Exit",
            ),
        ),
    ),
    _table(
        name="one restart more than is borne",
        found_by="test_restarts_within_the_window_are_numbered_and_one_too_many_is_none",
        where="kernel.supervision.intensity",
        edits=(
            (
                "if self.count(intensity, now) >= intensity.restarts_max:",
                "if self.count(intensity, now) > intensity.restarts_max:",
            ),
        ),
    ),
    _table(
        name="a window that does not slide",
        found_by="test_restarts_within_the_window_are_numbered_and_one_too_many_is_none",
        where="kernel.supervision.intensity",
        edits=(("self._times[0] <= now - intensity.within_s", "False"),),
    ),
    _table(
        name="a sweep that was held up kills at its first look",
        found_by="test_every_pair_of_liveness_does_what_its_table_says",
        where="kernel.supervision.liveness",
        edits=(("TRANSITIONS[self.health, Sign.SILENCE], now)", "Health.DEAD, now)"),),
        point="3: a healthy one is reaped",
    ),
    _table(
        name="the beat of a stale incarnation keeps its successor alive",
        found_by="test_the_beat_of_a_stale_incarnation_is_refused",
        where="kernel.supervision.liveness",
        edits=(("if incarnation != self.incarnation or health is None:", "if health is None:"),),
        point="12: heartbeats that renew nothing",
    ),
    _table(
        name="a beat counts as progress",
        found_by="test_every_pair_of_liveness_does_what_its_table_says",
        where="kernel.supervision.liveness",
        edits=(("now if progress else self.progress_at, health)", "now, health)"),),
    ),
    _table(
        name="resuming ends a quarantine",
        found_by="test_a_quarantine_ends_by_its_release_alone",
        where="kernel.supervision.desired",
        edits=(
            (
                "        (Desired.QUARANTINED, Verb.RELEASE): Desired.RUNNING,",
                "        (Desired.QUARANTINED, Verb.RELEASE): Desired.RUNNING,\n        (Desired.QUARANTINED, Verb.RESUME): Desired.RUNNING,",
            ),
        ),
    ),
    _table(
        name="under rest_for_one only the fallen child is started anew",
        found_by="test_who_is_started_anew",
        where="kernel.supervision.strategy",
        edits=(("            return list(children[at:])", "            return [exited]"),),
    ),
)
