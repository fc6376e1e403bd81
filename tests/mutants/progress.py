"""Bugs of progress: limits that never come or always move, crashes that count as failures, runs that never let go."""

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["PROGRESS"]

_TESTS = "tests/supervisors/test_progress.py"
_DEAF = "tests/supervisors/test_would_not_stop.py"
_LAG = "tests/supervisors/test_lag.py"
_watch = partial(Mutant, where="actors.watch", tries=(_TESTS,))
_run = partial(Mutant, where="actors.run", tries=(_TESTS,), slow=True)
_steps = partial(Mutant, where="actors.steps", tries=(_TESTS,), slow=True)
_lag = partial(Mutant, where="supervisors.lag", tries=(_LAG,), slow=True)

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
)
