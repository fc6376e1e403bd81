"""What a round's lines amount to. It goes by what callers were told, what the model was asked, and what is kept."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from benchmarks._lines import Line, named
from benchmarks.double_texting._texting import MODEL_S, TEXTS, What, reply_to

__all__ = ["FLOOR_S", "Counted", "broken", "count"]

FLOOR_S: Final = len(TEXTS) * MODEL_S
"""What all turns take one after another, if nothing but the model takes time."""


class Counted(NamedTuple):
    """One round. A message is the user's, or a reply: two of each turn.

    Args:
        at_once: the most calls of the model under way at one time.
        sent: messages that the history would hold in the end if each got a reply of its own, replies among them.
        kept: those of them that a new process finds in the durable history.
        in_order: whether what is kept is there once, as it was sent, each reply right after what it answers.
        answered: callers who got a reply.
        errors: callers who got an error.
        lost: messages not kept though they were accepted or answered, and replies not kept though a caller has them.
        calls: calls of the model.
        unkept: those of them whose reply is not kept.
        seconds: from the first message sent until the last caller knew.
    """

    at_once: int
    sent: int
    kept: int
    in_order: bool
    answered: int
    errors: int
    lost: int
    calls: int
    unkept: int
    seconds: float


def count(lines: Sequence[Line]) -> Counted:
    """Count one round, in which messages were sent."""
    sent_at = min(line.at for line in lines if line.what == What.SENT)
    told_at = max((line.at for line in lines if line.what in {What.ANSWERED, What.REFUSED}), default=lines[-1].at)
    answered, history = named(lines, What.ANSWERED), [line.of for line in lines if line.what == What.KEPT]
    promised = named(lines, What.ACCEPTED) | answered | named(lines, What.TOLD)
    calls = Counter(reply_to(line.of) for line in lines if line.what == What.CALLED)
    steps = ({What.CALLED: 1, What.SPENT: -1}.get(What(line.what), 0) for line in lines)
    expected = [message for text in TEXTS for message in (text, reply_to(text))]
    return Counted(
        at_once=max(accumulate(steps), default=0),
        sent=len(expected),
        kept=len(set(history) & set(expected)),
        in_order=history == [message for message in expected if message in history],
        answered=len(answered),
        errors=len(named(lines, What.REFUSED)),
        lost=len(promised - set(history)),
        calls=calls.total(),
        unkept=(calls - Counter(history)).total(),
        seconds=told_at - sent_at,
    )


def broken(found: Counted, *, whole: bool = True) -> list[str]:
    """Return what may not be in a round of ours, in words.

    `whole` says that each message is promised a reply of its own. Otherwise nothing may be lost: what was accepted is
    kept, and so is every reply that a caller has.
    """
    missing = found.sent - found.kept if whole else found.lost
    wrong = {
        f"{missing} messages not kept": missing > 0,
        "messages out of order": not found.in_order,
        f"{found.at_once} turns ran at once": found.at_once > 1,
    }
    return [what for what, so in wrong.items() if so]
