"""Strategies: which siblings go down, and come up again, with a child that has ended."""

from collections.abc import Sequence
from enum import StrEnum

__all__ = ["Strategy", "affected"]


class Strategy(StrEnum):
    """What the end of one child means for its siblings."""

    ONE_FOR_ONE = "one_for_one"  # nothing
    ONE_FOR_ALL = "one_for_all"  # all are started anew
    REST_FOR_ONE = "rest_for_one"  # those started after it stood on it, and are started anew


def affected(strategy: Strategy, children: Sequence[str], exited: str) -> list[str]:
    """Return who is started anew when `exited` has ended, in the order of their starts; they are stopped in reverse.

    Raises:
        ValueError: `exited` is none of the children.
    """
    at = children.index(exited)
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return [exited]
        case Strategy.ONE_FOR_ALL:
            return list(children)
        case Strategy.REST_FOR_ONE:
            return list(children[at:])
