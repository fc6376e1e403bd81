"""Bugs of waiting: answers twice or never, children without parents, deadlines that move, ends that are forgotten."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["WAITING"]

_waiting = partial(Mutant, tries=("waiting",))
_standing = partial(_waiting, where="actors.standing")
_cancelling = partial(Mutant, tries=("tests/supervisors/test_cancel.py",))
_ring = partial(Mutant, where="actors.children", tries=("tests/supervisors/test_children.py",))

WAITING: Final[tuple[Mutant, ...]] = (
    _standing(
        name="a wait has two answers",
        edits=(
            (
                "            if self.live(turn_id) is not turn or not turn.steady or turn.row.edges != seen:\n                continue\n",
                "",
            ),
        ),
    ),
    _waiting(
        name="a wait's deadline is moved each time its turn is suspended",
        where="actors.run",
        edits=(("step.wait.kind, step.wait.due_at,", "step.wait.kind, now + 60.0,"),),
        point="1: a nudge moves the deadline",
    ),
    Mutant(
        name="a turn is suspended while the answer to one of its waits is being written",
        found_by="test_of_several_waits_one_that_is_answered_as_the_turn_is_to_be_suspended_wakes_it",
        where="actors.waits",
        edits=(
            (
                "answered = turn.standing.keys() - turn.open_waits.keys()",
                "answered = min(turn.standing) not in turn.open_waits",
            ),
        ),
        tries=("tests/supervisors/test_found_waiting.py",),
    ),
    _waiting(
        name="a child turn is committed without its parent's record of it",
        where="actors.session",
        edits=(
            (
                "            records = [*records, *child.begin(arrival.turn_id)]\n",
                "            node.loop.call_later(0.01, node.persistence.submit, child.begin(arrival.turn_id), lambda _: None)\n",
            ),
        ),
        point="8: two commits for one thing",
    ),
    _waiting(
        name="after a restart nobody is told that a child turn had ended",
        where="supervisors.recovery",
        edits=(("for child_id, parent_id in ended),", "for child_id, parent_id in ended[:0]),"),),
        point="10: goes on only with new traffic",
    ),
    _waiting(
        name="what a run's end leaves to wait for is not stored",
        where="kernel.lifecycle",
        edits=(("    return Change(after, [*records, *stood])", "    return Change(after, [*records])"),),
    ),
    _cancelling(
        name="a turn that is being cancelled goes on with the end of its child",
        found_by="test_children_are_cancelled_first",
        where="actors.standing",
        edits=((" or (turn.request is not None and turn.row.state is not TurnState.RUNNING)", ""),),
    ),
    _waiting(
        name="a signal is given to two waits",
        where="actors.signals",
        edits=(("lambda _: answer, (SignalTaken(turn_id, signal_id),))", "lambda _: answer, ())"),),
    ),
    _waiting(
        name="a signal that came early is lost",
        where="actors.waits",
        edits=(("        if wait.kind == WaitKind.SIGNAL:  # it may", "        if False:  # it may"),),
    ),
    _cancelling(
        name="a crash forgets that a turn is to end",
        found_by="test_a_tree_is_cancelled_under_a_kill_at_every_point",
        where="actors.run",
        edits=(("turn.request = turn.request or record.request", "turn.request = turn.request"),),
    ),
    _ring(
        name="a ring is not looked for where a turn has left memory",
        found_by="test_a_ring_through_a_queued_turn_is_found",
        edits=(
            (
                "        if awaited is None:\n            return [], at\n",
                "        if awaited is None:\n            continue\n",
            ),
        ),
    ),
    _waiting(
        name="deadlines from before a restart are forgotten",
        where="supervisors.alarm",
        edits=(("        self._place = (-math.inf, -1)\n", "        self._place = (node.clock.time(), -1)\n"),),
        point="10: left to nobody",
    ),
)
