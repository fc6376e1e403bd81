"""The storm guard: how many turns of one agent end without getting on, and when that is a storm."""

from turnkeeper.kernel.errors import ChildNotWanted, ChildQuarantined, Quarantined, ShuttingDown
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.verdict import Stop, Verdict

__all__ = ["Storm", "is_fruitless"]

_FRUITLESS = frozenset({Verdict.FAIL, Verdict.RETRY, Verdict.RECOVER})


def is_fruitless(verdict: Verdict, error: BaseException | None, stop: Stop | None) -> bool:
    """Say whether the end of a run in which nothing got on is one of those that make a storm.

    The guard is against an agent that is broken from its first line, so what counts is the agent's own doing:

    - FAIL and RETRY count, whatever the handler raised, and so does a run past its deadline: it had its time, and made
      nothing of it. A version that was not given to the runtime (`VersionGone`) counts, too: that is a bad release.
    - RECOVER counts: a run that was stuck, or whose process died, would go on so for ever.
    - COMPLETE does not: it is progress in itself.
    - SUSPEND and YIELD do not: a person, or the next runtime, is waited for, and the handler has done nothing wrong.
    - RESYNC does not: the store has failed, for all agents alike.
    - A turn quarantined before it ran does not: it did its harm in earlier runs, which counted.
    - A turn that found no worker, because those are put away, told to rest or about to be stopped, does not: that is
      somebody's wish, or was counted as their falls.
    - A task that was cancelled, and by nobody here, does not: the program around the runtime is being ended.

    A turn that ends while it waits has no run, and is never asked about.

    Args:
        verdict: on the run.
        error: what the verdict was on.
        stop: why the handler was told to stop, if it was.
    """
    cancelled = stop is None and not isinstance(error, Exception)
    hindered = isinstance(error, ChildQuarantined | ChildNotWanted | ShuttingDown)
    return verdict in _FRUITLESS and not cancelled and not isinstance(error, Quarantined) and not hindered


class Storm:
    """The latest fruitless ends of one agent's turns, each turn once; progress of any turn forgets them all.

    A turn counts once, however often it is run: one bad inbound with its retries is no storm, and `retries_max` and
    `recoveries_max` are there for it. So one client cannot pause an agent that gets on with the turns of others.
    """

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        """Begin with none."""
        self._ends: dict[int, float] = {}

    def get_on(self) -> None:
        """Take note of progress: a turn of the agent has got on, or has completed."""
        self._ends.clear()

    def end(self, settings: Settings, turn_id: int, now: float) -> bool:
        """Take note of a fruitless end, and say whether it makes a storm; then the count begins anew.

        Args:
            settings: `storm_ends_max` and `storm_s`.
            turn_id: whose run has ended.
            now: by a clock that is never put back, s.
        """
        if not settings.storm_ends_max:
            return False
        self._ends = {turn: at for turn, at in self._ends.items() if at > now - settings.storm_s}
        self._ends[turn_id] = now
        if len(self._ends) < settings.storm_ends_max:
            return False
        self._ends.clear()
        return True
