"""Bugs of progress: limits that never come or always move, crashes that count as failures, runs that never let go."""

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["PROGRESS"]

_TESTS = "tests/supervisors/test_progress.py"
_DEAF = "tests/supervisors/test_would_not_stop.py"
_LAG = "tests/supervisors/test_lag.py"
_STORM = "tests/supervisors/test_storms.py"
_watch = partial(Mutant, where="actors.watch", tries=(_TESTS,))
_run = partial(Mutant, where="actors.run", tries=(_TESTS,), slow=True)
_steps = partial(Mutant, where="actors.steps", tries=(_TESTS,), slow=True)
_lag = partial(Mutant, where="supervisors.lag", tries=(_LAG,), slow=True)
_ends = partial(Mutant, where="kernel.supervision.storm", tries=("tests/kernel/test_storm.py",))
_storms = partial(Mutant, where="supervisors.storms", tries=(_STORM,), slow=True)

PROGRESS: Final[tuple[Mutant, ...]] = (
    _watch(
        name="a heartbeat puts off the limit of the turn",
        edits=(
            (
                "        else:\n            self.begin()",
                "        else:\n            self._ends_s += 100\n            self.begin()",
            ),
        ),
        point="1: a retry refreshes its own deadline",
        slow=True,
    ),
    _watch(
        name="a handler that would not stop keeps its turn",
        tries=(_DEAF,),
        edits=(("        if now_s >= self._patient_until_s:", "        if False:"),),
        slow=True,
    ),
    _watch(
        name="a turn without a limit of its own is taken back after a lease",
        edits=(("self._idle_s = idle_s or inf", "self._idle_s = idle_s or node.settings.lease_s"),),
        point="3: a healthy model call was reaped",
        slow=True,
    ),
    Mutant(
        name="a turn that was told to wait for a retry is stuck",
        where="actors.steps",
        tries=(_TESTS,),
        edits=(
            (
                "        self._turn.get_on(self._node.loop.time() + pause_s)  # nobody is stuck who was told to wait\n",
                "",
            ),
        ),
        slow=True,
    ),
    Mutant(
        name="a heartbeat of an earlier run keeps the next one alive",
        found_by="test_a_run_that_is_over_gets_on_no_more",
        where="actors.journal",
        tries=(_TESTS,),
        edits=(("        self.check_live()\n        self._turn.get_on(", "        self._turn.get_on("),),
        point="13: the beat of one that is gone",
    ),
    Mutant(
        name="a handler that lost its turn still writes for it",
        where="actors.journal",
        tries=(_DEAF,),
        edits=(
            (
                "        if self.closed or self._turn.row.epoch != self._epoch:",
                "        if self._turn.row.epoch != self._epoch:",
            ),
        ),
        point="12: a zombie owner completes after expiry",
        slow=True,
    ),
    _run(
        name="a turn that is stuck is never quarantined",
        edits=(("sum(reason in _TAKEN_BACK for reason in reasons)", 'reasons.count("recovery")'),),
    ),
    _run(
        name="a turn whose process died again and again has no backoff",
        edits=(("        if turn.recoveries:\n", "        if False:\n"),),
    ),
    _steps(
        name="a step whose process died has failed",
        edits=(
            (
                "                if cut_short(error):\n                    raise  # it has",
                "                if False:\n                    raise  # it has",
            ),
        ),
    ),
    _steps(
        name="effects under way in a run that would not stop are in no doubt",
        tries=(_DEAF,),
        edits=(("        self._calls.abandon()\n", ""),),
    ),
    _steps(
        name="a probe is asked about an effect that may still come",
        tries=(_DEAF,),
        edits=(("            if call.key in self._node.late:", "            if False:"),),
    ),
    Mutant(
        name="an effect whose process died is called again",
        where="actors.calls",
        tries=(_TESTS,),
        edits=(
            (
                "isinstance(error, asyncio.CancelledError) or cut_short(error):",
                "isinstance(error, asyncio.CancelledError):",
            ),
        ),
        slow=True,
    ),
    Mutant(
        name="a process that dies is a failure of its turn",
        found_by="test_a_turn_whose_process_died_runs_again_and_uses_up_no_retry",
        where="kernel.verdict",
        tries=(_TESTS,),
        edits=(
            (
                "isinstance(one, ProcessDied) for one in raised",
                "isinstance(one, ProcessDied) and retries_max for one in raised",
            ),
        ),
    ),
    _lag(
        name="a loop that was blocked once is never found blocked again",
        edits=(("            self._blocked = False\n", ""),),
    ),
    _lag(
        name="the place of the probe's own thread is shown for the loop's",
        edits=((".get(self._thread_id)", ".get(threading.get_ident())"),),
    ),
    _ends(
        name="one bad turn with its retries pauses its agent",
        found_by="test_a_turn_counts_once_however_often_its_runs_end",
        edits=(("        self._ends[turn_id] = now\n", "        self._ends[len(self._ends)] = now\n"),),
    ),
    _ends(
        name="ends of a storm are never forgotten",
        found_by="test_an_end_is_forgotten_when_its_time_is_over",
        edits=((" if at > now - settings.storm_s}", "}"),),
    ),
    _ends(
        name="a program that is ended from outside leaves its agents paused",
        found_by="test_a_cancellation_counts_only_where_a_limit_has_sent_it",
        edits=(("in _FRUITLESS and not cancelled and", "in _FRUITLESS and"),),
    ),
    _ends(
        name="turns that are quarantined before they run pause their agent",
        found_by="test_a_turn_that_was_quarantined_before_it_ran_does_not_count",
        edits=((" and not isinstance(error, Quarantined)", ""),),
    ),
    _ends(
        name="a resumed agent is paused by its next bad turn",
        found_by="test_the_fifth_turn_within_thirty_seconds_is_a_storm",
        edits=(("            return False\n        self._ends.clear()\n", "            return False\n"),),
    ),
    _run(
        name="a turn that completes is no progress",
        tries=(_STORM,),
        edits=(("            turn.storm.get_on()\n", ""),),
    ),
    _run(
        name="turns that ran when their agent was paused pause it again",
        tries=(_STORM,),
        edits=((" and agent_id not in node.resting", ""),),
    ),
    Mutant(
        name="a run that got on counts as if it had not",
        where="actors.openturn",
        tries=(_STORM,),
        edits=(("        self.fruitless = False\n        self.storm.get_on()\n", "        self.storm.get_on()\n"),),
        slow=True,
    ),
    Mutant(
        name="a turn that gets on saves nobody but itself",
        where="actors.openturn",
        tries=(_STORM,),
        edits=(("        self.storm.get_on()\n", ""),),
        slow=True,
    ),
    _storms(
        name="an agent that cannot be recorded as paused goes on",
        edits=(("        self._reception.want(agent_id, Desired.PAUSED)\n", ""),),
    ),
    _storms(
        name="a storm is forgotten with its runtime",
        edits=(("        node.start(self._record(agent_id, Note(reason, error=error, by=BY)))\n", ""),),
    ),
    _storms(
        name="an agent is wanted paused and runs",
        edits=(("        self._reception.want(agent_id, desired)", "        str(desired)"),),
    ),
)
