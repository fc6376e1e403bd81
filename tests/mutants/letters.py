"""Bugs of in-memory actors under supervision: who is told of a dead letter, who is given up, what is logged."""

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["LETTERS"]

_supervised = partial(Mutant, where="actors.supervised", tries=("tests/actors/test_supervised_stopping.py",))

LETTERS: Final[tuple[Mutant, ...]] = (
    _supervised(
        name="a handler that would not stop is waited for all the same",
        found_by="test_a_handler_that_would_not_stop_is_given_up",
        edits=(("            self._give_up(worker)\n", "            await asyncio.wait([stopping])\n"),),
    ),
    _supervised(
        name="a letter of a handler that was given up is tried by the next incarnation, too",
        found_by="test_a_handler_that_would_not_stop_is_given_up",
        edits=(("retries_max=0)", "retries_max=self._poison.retries_max)"),),
    ),
    _supervised(
        name="a worker that was given up goes on when its handler ends",
        found_by="test_closing_does_not_wait_for_who_was_given_up",
        edits=(("            raise asyncio.CancelledError\n", "            return\n"),),
    ),
    _supervised(
        name="closing waits for who was given up",
        found_by="test_closing_does_not_wait_for_who_was_given_up",
        edits=(("        dispatcher.workers.discard(worker)\n", ""),),
    ),
    _supervised(
        name="who asked is told that the actor has stopped, of a letter that is dead",
        found_by="test_a_stop_cuts_off_what_does_not_finish_in_time",
        edits=(("LetterDead(self.name, type(crash).__qualname__)", "self._stopped_error()"),),
    ),
    Mutant(
        name="ten crashes of one place hide all others of their second",
        found_by="test_no_crash_is_silent_and_a_storm_is_a_number",
        where="actors.crashlog",
        tries=("tests/actors/test_supervised.py",),
        edits=(
            ("        place = type(crash), code, at ", "        place = type(crash), code, at + len(self._counts) "),
        ),
    ),
)
