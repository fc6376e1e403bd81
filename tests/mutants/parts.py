"""Bugs of the runtime's own parts: a writer that falls for good, or whose next incarnation believes the one before."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["PARTS"]

_part = partial(Mutant, tries=("tests/supervisors/test_parts.py",))

PARTS: Final[tuple[Mutant, ...]] = (
    _part(
        name="a writer that crashed is not started anew",
        found_by="test_a_crashed_writer_comes_back_and_brings_its_turns_with_it",
        where="supervisors.writer",
        edits=(("            self._exited(crash_of(error))\n", "            pass\n"),),
        point="10: moved to a state that nothing resumes",
    ),
    _part(
        name="who waits for a deliverable is not told that the writer crashed",
        found_by="test_who_waits_is_told_at_once_and_who_asks_again_gets_the_deliverable",
        where="supervisors.writer",
        edits=(("        self._crashed(failed)\n", ""),),
    ),
    _part(
        name="a boot begins beside the turns of the one before",
        found_by="test_a_crashed_writer_comes_back_and_brings_its_turns_with_it",
        where="supervisors.reception",
        edits=(("        self._agents.clear()\n        self._idle.clear()\n", ""),),
        point="12: a zombie owner",
    ),
    _part(
        name="what comes in is admitted before what the store holds was taken up",
        found_by="test_nothing_is_admitted_before_what_the_store_holds_was_taken_up",
        where="supervisors.agents",
        edits=(
            ("        await self._take_up(node)\n", "        node.open = True\n        await self._take_up(node)\n"),
        ),
        tries=("tests/supervisors/test_runtime.py",),
    ),
    _part(
        name="a receipt stays with the boot whose writer crashed",
        found_by="test_a_crashed_writer_comes_back_and_brings_its_turns_with_it",
        where="actors.receipt",
        edits=(
            (
                "        if last is not self._node and (last.open or last.failed):",
                "        if False:",
            ),
        ),
    ),
    _part(
        name="a call that would not stop is forgotten with its boot",
        found_by="test_a_call_that_would_not_stop_is_waited_for_across_the_restart",
        where="actors.node",
        edits=(("before.late if before else {}", "{}"),),
        point="14: a crash leaves something half-changed in use",
    ),
    _part(
        name="the fall of a writer is noted nowhere",
        found_by="test_the_crash_of_a_writer_is_an_event_that_the_next_one_writes",
        where="supervisors.chronicle",
        edits=(("            self._waiting.append((path, kind, incarnation, note))\n", "            pass\n"),),
    ),
    _part(
        name="one error is raised for all, and grows with each",
        found_by="test_a_crashed_writer_comes_back_and_brings_its_turns_with_it",
        where="kernel.errors.base",
        edits=(
            (
                "        error = type(self).__new__(type(self))\n        vars(error).update(vars(self))\n        return error\n",
                "        return self\n",
            ),
        ),
    ),
    _part(
        name="what stood on the writer is not brought back with it",
        found_by="test_a_crashed_writer_comes_back_and_brings_its_turns_with_it",
        where="supervisors.runtime",
        edits=(("strategy=Strategy.REST_FOR_ONE", "strategy=Strategy.ONE_FOR_ONE"),),
        point="10: left to nobody",
    ),
    _part(
        name="turns are cut off by a crashed writer only after their grace",
        found_by="test_turns_under_a_crashed_writer_get_no_grace",
        where="supervisors.agents",
        edits=(("0.0 if node.failed else node.settings.shutdown_s", "node.settings.shutdown_s"),),
    ),
    _part(
        name="a stop that never ends keeps the writer down",
        found_by="test_a_child_whose_stop_never_ends_does_not_keep_the_writer_down",
        where="supervisors.place",
        edits=(("timeout=None if endless else self.spec.shutdown_s + _LAST_WORDS_S", "timeout=None"),),
    ),
    _part(
        name="a child that cannot be started with the next writer takes its tree down",
        found_by="test_a_child_that_cannot_be_started_with_the_next_writer_falls_alone",
        where="supervisors.supervisor",
        edits=(("            if failed is not None and self._fresh:\n", "            if failed is not None:\n"),),
    ),
    _part(
        name="a commit that can be read before its writer says so is a stall",
        found_by="test_a_commit_that_can_be_read_before_its_writer_says_so_is_waited_for",
        where="supervisors.sweep",
        edits=(("        await self._node.persistence.flush()\n", ""),),
        tries=("tests/supervisors/test_sweep.py",),
        point="13: a live one is redelivered",
    ),
    _part(
        name="a verb whose caller goes away is half done",
        found_by="test_a_verb_whose_caller_goes_away_is_said_and_done",
        where="supervisors.carried",
        edits=(("    return await asyncio.shield(task)\n", "    return await task\n"),),
        tries=("tests/supervisors/test_tending.py",),
        point="5: a word that did silently nothing",
    ),
    _part(
        name="a quarantine is known only once it is written",
        found_by="test_a_child_that_falls_too_often_is_put_away_and_its_neighbours_go_on",
        where="supervisors.supervisor",
        edits=(("            self._chronicle.hold(path, Desired.QUARANTINED)\n", ""),),
        tries=("tests/supervisors/test_supervisor.py",),
    ),
    _part(
        name="an orderly end looks like a crash in the store",
        found_by="test_a_crashed_writer_comes_back_and_brings_its_turns_with_it",
        where="supervisors.writer",
        edits=(
            (
                "            node.persistence.submit([NodeStopped(node.clock.time(), node.lease.boot_id)], _unheard)\n",
                "",
            ),
        ),
    ),
)
