"""Bugs of the sweep: what it lets lie, and what it touches that is merely slow."""

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["SWEEP"]

_TESTS = ("tests/supervisors/test_sweep.py",)

_sweep = partial(Mutant, where="supervisors.sweep", tries=_TESTS)

SWEEP: Final[tuple[Mutant, ...]] = (
    _sweep(
        name="one look is enough to touch a turn",
        found_by="test_a_turn_that_its_actor_has_lost_goes_on_after_two_looks",
        edits=(
            (
                "        self._suspects = [live for live, _ in self._in_trouble(page)]",
                "        await self._see_to([live for live, _ in self._in_trouble(page)])",
            ),
        ),
    ),
    _sweep(
        name="a turn that has moved between two looks is touched",
        found_by="test_a_commit_that_can_be_read_before_its_writer_says_so_is_waited_for",
        edits=((" and row.version == seen.row.version", ""),),
    ),
    _sweep(
        name="the next turn is an orphan while its lease rides with the end of the one before",
        edits=(("return current is None or current.row.state not in TERMINAL", "return True"),),
        missing="a look between the writer's answer and the next turn's end",
    ),
    _sweep(
        name="a suspended turn comes back into the run of another",
        found_by="test_a_suspended_turn_does_not_come_back_into_the_run_of_another",
        edits=(
            (
                "return agent is not None and agent.current is None",
                "return agent is not None",
            ),
        ),
    ),
    _sweep(
        name="only the first page is ever looked through",
        found_by="test_a_look_reads_a_page_however_many_turns_are_live",
        edits=(("if len(page) == PAGE_MAX else (0, 0)", "if False else (0, 0)"),),
    ),
    _sweep(
        name="the first round of looks is the last",
        found_by="test_a_suspended_turn_does_not_come_back_into_the_run_of_another",
        edits=(("if len(page) == PAGE_MAX else (0, 0)", "if page else self._place"),),
    ),
    _sweep(
        name="a commit on its way is nothing to stand on",
        found_by="test_a_turn_that_its_actor_has_lost_goes_on_after_two_looks",
        edits=((" or turn.row.version != live.row.version", ""),),
    ),
    _sweep(
        name="a timer is nothing to stand on",
        found_by="test_a_queue_whose_head_waits_for_nothing_goes_on",
        edits=(("        if turn.timer is not None and", "        if False and"),),
    ),
    _sweep(
        name="an agent that rests is made to go on",
        found_by="test_a_long_run_a_backoff_and_an_agent_that_rests_are_let_be",
        edits=((" and live.address.agent_id not in node.resting", ""),),
    ),
    _sweep(
        name="what is held and stands on nothing is only said",
        found_by="test_a_queue_whose_head_waits_for_nothing_goes_on",
        edits=(("            self._go_on(live)", "            pass"),),
    ),
    _sweep(
        name="turns of agents that the runtime was not given are brought back",
        found_by="test_turns_of_agents_that_the_runtime_was_not_given_stay",
        edits=(("            if not self._reception.serves(address.agent_id):\n                continue\n", ""),),
    ),
    _sweep(
        name="a look that fails is the last",
        found_by="test_a_look_that_fails_is_said_and_the_next_tries_again",
        edits=(('.warning("sweep.failed", error=str(error))', ".warning(str(error))\n                return"),),
    ),
    _sweep(
        name="a runtime that closes is still looked through",
        found_by="test_a_runtime_that_closes_is_not_looked_through",
        edits=(
            ("        if node.closing:\n            return\n", ""),
            ("        if self._node.closing:\n            return\n", ""),
        ),
    ),
    _sweep(
        name="what is caught is told to nobody",
        found_by="test_a_turn_that_its_actor_has_lost_goes_on_after_two_looks",
        edits=(("            if node.points is not None:", "            if False:"),),
    ),
    Mutant(
        name="a simulated world bears what the sweep catches",
        found_by="test_in_a_simulated_world_whatever_is_caught_ends_the_run",
        where="testing.oracles",
        tries=_TESTS,
        edits=(("        elif point == CAUGHT:", "        elif False:"),),
    ),
)
