"""Refusals: what follows where a commit point is refused, for those who keep a store."""

from collections.abc import Sequence
from typing import Final

from turnkeeper.kernel.records import EdgeAppended, Record, TurnInserted

__all__ = ["CAREFUL_BATCHES", "may_be_followed"]


CAREFUL_BATCHES: Final = 64
"""Batches of the default size that can wait for the writer (`commits_waiting_max` over `batch_max`)."""


def may_be_followed(point: Sequence[Record]) -> bool:
    """Say whether others may have written on top of a point: it has an edge of a turn that was there before."""
    new = {record.turn_id for record in point if isinstance(record, TurnInserted)}
    return any(isinstance(record, EdgeAppended) and record.turn_id not in new for record in point)
