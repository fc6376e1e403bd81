"""Bugs of external participants: names held twice, zombies that are heard, silence that is not found or kills at once."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["PARTICIPANTS"]

_kernel = partial(Mutant, where="kernel.supervision.participant", tries=("participants",))
_keeper = partial(Mutant, where="supervisors.participants", tries=("participants",))
_tested = partial(Mutant, where="supervisors.participants", tries=("tests/supervisors/test_participants.py",))

PARTICIPANTS: Final[tuple[Mutant, ...]] = (
    _kernel(
        name="the beat of a connection that lost its name keeps the newer one alive",
        edits=(
            (
                "        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,",
                "        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,\n        (Standing.HELD, Speaker.REPLACED, Word.BEAT): Meaning.BEAT,",
            ),
        ),
        point="12: heartbeats that renew nothing",
    ),
    _kernel(
        name="a late join of a connection that lost its name takes it back",
        edits=(
            (
                "        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,",
                "        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,\n        (Standing.HELD, Speaker.REPLACED, Word.JOIN): Meaning.TAKE_OVER,",
            ),
        ),
        point="12: a zombie completing after expiry",
    ),
    _kernel(
        name="a stale connection's leave sends the newer one away",
        edits=(
            (
                "        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,",
                "        (Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,\n        (Standing.HELD, Speaker.REPLACED, Word.LEAVE): Meaning.LEAVE,",
            ),
        ),
    ),
    _kernel(
        name="a newer connection counts as the one that holds the name",
        edits=(
            (
                "(Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER",
                "(Standing.HELD, Speaker.OTHER, Word.JOIN): Meaning.BEAT",
            ),
        ),
    ),
    _kernel(
        name="who is gone comes back by a beat",
        edits=(
            (
                "        (Standing.FREE, Speaker.HOLDER, Word.LEAVE): Meaning.NOTHING,",
                "        (Standing.FREE, Speaker.HOLDER, Word.LEAVE): Meaning.NOTHING,\n        (Standing.FREE, Speaker.HOLDER, Word.BEAT): Meaning.JOIN,",
            ),
        ),
    ),
    _kernel(
        name="the connection that a name was taken from is forgotten at the next takeover",
        edits=(("(*before.replaced, before.connection_id)[-REPLACED_MAX:]", "(before.connection_id,)"),),
    ),
    _kernel(
        name="a name that was left stays closed to whom it was taken from",
        edits=(("        (Standing.FREE, Speaker.REPLACED, Word.JOIN): Meaning.JOIN,\n", ""),),
    ),
    _kernel(
        name="a beat leaves the old deadline",
        edits=(
            (
                "return msgspec.structs.replace(before, pulse=pulse, due_at=pulse.due_at(limits)), event",
                "return msgspec.structs.replace(before, pulse=pulse), event",
            ),
        ),
    ),
    _kernel(
        name="a beat while suspect brings back without a note",
        edits=(("ChildEventKind.RECOVERED if before.suspect else None", "None"),),
    ),
    Mutant(
        name="of the grace half is given",
        where="kernel.supervision.liveness",
        edits=(
            (
                "        return self.suspect_at + limits.grace_s\n",
                "        return self.suspect_at + limits.grace_s / 2\n",
            ),
            ("now >= self.suspect_at + limits.grace_s:", "now >= self.suspect_at + limits.grace_s / 2:"),
        ),
        tries=("participants",),
    ),
    Mutant(
        name="the grace counts from the silence, and a late look gives none",
        found_by="test_death_has_two_phases_and_looking_late_skips_none",
        where="kernel.supervision.liveness",
        edits=(
            (
                "TRANSITIONS[self.health, Sign.SILENCE], now)",
                "TRANSITIONS[self.health, Sign.SILENCE], self.beat_at + limits.silent_s)",
            ),
        ),
        tries=("tests/kernel/test_supervision.py",),
    ),
    _keeper(
        name="a newer incarnation has the number of the older",
        edits=(("        self._incarnation = max(self._incarnation, after.incarnation)\n", ""),),
    ),
    _keeper(
        name="the timer stays where it is when somebody is due before it",
        edits=(("self._timer.when() > due_at", "self._timer.when() < due_at"),),
    ),
    _keeper(
        name="the timer is not set anew after it has rung",
        edits=(("        finally:\n            self._arm(loop)", "        finally:\n            pass"),),
    ),
    _keeper(
        name="a beat does not move a participant behind those who beat before it",
        edits=(
            (
                "        if before is not None:\n            del self._queue(before)[before.name]\n",
                "        if before is not None and self._queue(before) is not self._queue(after):\n            del self._queue(before)[before.name]\n",
            ),
        ),
    ),
    _keeper(
        name="the dead are not noted",
        edits=(
            (
                '        self._happened(after, event, f"silent for',
                '        if after.suspect:\n            self._happened(after, event, f"silent for',
            ),
        ),
    ),
    _keeper(
        name="a stop leaves participants behind",
        edits=(("        for queue in self._queues():\n            queue.clear()\n", ""),),
    ),
    _kernel(
        name="the dead are remembered for weeks",
        edits=(("pulse=pulse, due_at=now + REMEMBERED_S)", "pulse=pulse, due_at=now + 1_000 * REMEMBERED_S)"),),
    ),
    _tested(
        name="a flood of names is remembered",
        found_by="test_a_flood_of_names_leaves_a_bounded_memory",
        edits=(("            self._gone.popitem(last=False)\n", "            pass\n"),),
    ),
    _tested(
        name="one participant more than may be",
        found_by="test_one_more_than_may_be_is_refused_and_has_room_once_one_is_gone",
        edits=((">= self._participants_max:", "> self._participants_max:"),),
    ),
    _tested(
        name="a takeover needs room of its own",
        found_by="test_one_more_than_may_be_is_refused_and_has_room_once_one_is_gone",
        edits=(
            (
                "if event is ChildEventKind.JOINED and len",
                "if event in {ChildEventKind.JOINED, ChildEventKind.TAKEN_OVER} and len",
            ),
        ),
    ),
    _tested(
        name="all who are silent are dealt with in one go",
        found_by="test_many_silences_at_once_let_others_go_on_in_between",
        edits=(("_LOOKS_MAX: Final = 100", "_LOOKS_MAX: Final = 100_000"),),
    ),
)
