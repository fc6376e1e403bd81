"""What a round's lines amount to: the ledger itself. It looks at the world outside, and asks no system about itself."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks._lines import Line, named
from benchmarks.crash_ledger._outside import EFFECTS, What, effect

__all__ = ["Counted", "broken", "count"]


class Counted(NamedTuple):
    """One round. Times in seconds; None is what was not seen.

    Args:
        acknowledged: turns whose client was told that they are accepted.
        in_flight: turns sent and not delivered when the process was killed.
        owed: those of them that were acknowledged.
        lost: acknowledged, and not delivered with the right result when recovery was over.
        effects: logical effects that happened, once or more.
        repeated: how often an effect happened that had happened before.
        skipped: effects of delivered turns that never happened.
        in_doubt: effects that the system said it is not sure of; None where it never says.
        hidden: effects begun, without a recorded outcome, and not said to be in doubt; None as `in_doubt`.
        start_s: from starting the new process until its imports were done.
        first_live_s: from there, before the runtime is entered, until the first recovered turn ran.
        all_live_s: until the last of them did.
        ended_s: until the last deliverable came, doubts answered.
    """

    acknowledged: int
    in_flight: int
    owed: int
    lost: int
    effects: int
    repeated: int
    skipped: int
    in_doubt: int | None
    hidden: int | None
    start_s: float
    first_live_s: float | None
    all_live_s: float | None
    ended_s: float | None


def count(lines: Sequence[Line], unrecorded: set[str] | None, started_at: float) -> Counted:
    """Count one round.

    Args:
        lines: what was written outside, in both lives.
        unrecorded: effects begun and without a record after the kill; None for a system that lists no doubts.
        started_at: when the process that recovers was started (monotonic, s).
    """
    before, after = [line for line in lines if line.life == 1], [line for line in lines if line.life > 1]
    acknowledged, delivered = named(lines, What.ACKNOWLEDGED), named(lines, What.DELIVERED)
    happened = Counter(line.of for line in lines if line.what == What.HAPPENED)
    listed = named(after, What.LISTED)
    entered_at = next(line.at for line in after if line.what == What.ENTERED)
    live_at: dict[str, float] = {}
    for line in after:
        if line.what == What.LIVE:
            live_at.setdefault(line.of, line.at)
    ended_at = [line.at for line in after if line.what == What.DELIVERED]
    return Counted(
        acknowledged=len(acknowledged),
        in_flight=len(named(before, What.SENT) - named(before, What.DELIVERED)),
        owed=len(acknowledged - named(before, What.DELIVERED)),
        lost=len(acknowledged - delivered),
        effects=len(happened),
        repeated=sum(times - 1 for times in happened.values()),
        skipped=sum(effect(turn, step) not in happened for turn in delivered for step in EFFECTS),
        in_doubt=None if unrecorded is None else len(listed),
        hidden=None if unrecorded is None else len(unrecorded - listed),
        start_s=entered_at - started_at,
        first_live_s=min(live_at.values()) - entered_at if live_at else None,
        all_live_s=max(live_at.values()) - entered_at if live_at else None,
        ended_s=max(ended_at) - entered_at if ended_at else None,
    )


def broken(found: Counted) -> list[str]:
    """Return what may not be in a round of ours, in words."""
    wrong = {
        "acknowledged turns lost": found.lost,
        "effects repeated": found.repeated,
        "effects skipped": found.skipped,
        "effects in doubt and not listed": found.hidden or 0,
    }
    return [f"{number} {what}" for what, number in wrong.items() if number]
