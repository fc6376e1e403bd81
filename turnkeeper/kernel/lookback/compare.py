"""Compare: two turns side by side, a fork against its source say: what is the same, and what differs first."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from turnkeeper.kernel.lookback.past import Past, past_of, readable
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.step import StepRecord

__all__ = ["Difference", "Different", "diff"]


class Different(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs. `where` is input, version, a step, outcome or deliverable; `what` the part of it.

    `a` and `b` are the two turns' values, decoded; None where a turn has none.
    """

    where: str
    what: str
    a: Any
    b: Any


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two turns compared. `different` stands in the order in which it came about, so the first one is the cause.

    Steps are told by their identity: `same` ones, those `only_a` and `only_b` have, and in `different` the others.
    Values are compared as stored, byte for byte; idempotency keys and times are not compared. `forked_from` says
    which turn the other was forked from, with how many of its steps.
    """

    a: int
    b: int
    same: list[str]
    only_a: list[str]
    only_b: list[str]
    different: list[Different]
    forked_from: int | None = None
    steps_taken: int = 0

    @property
    def first(self) -> Different | None:
        """Return the first thing that differs; None where nothing does."""
        return self.different[0] if self.different else None


_ASPECTS: Final = ("effect", "contract", "arguments", "status", "result", "failure")
"""What is compared of a step, in the order in which it comes about."""


def diff(rows: Rows, a: int, b: int) -> Difference:
    """Compare two turns of one store, whatever their actors and states.

    Raises:
        TurnNotFound: there is no such turn.
        StorageFailed: what is stored of one cannot be read.
    """
    one, other = past_of(rows, a), past_of(rows, b)
    with readable(f"turn {a} or {b}"):
        return _compared(one, other)


def _compared(one: Past, other: Past) -> Difference:
    names = sorted({*one.steps, *other.steps}, key=lambda name: _issued(name, one, other))
    same: list[str] = []
    different = list(_before_the_steps(one, other))
    for name in names:
        found = list(_step(name, one.steps.get(name), other.steps.get(name)))
        different += found
        same += [] if found else [str(name)]
    different += _after_the_steps(one, other)
    fork = next((past for past, source in ((one, other), (other, one)) if _is_fork(past, source)), None)
    return Difference(
        a=one.row.turn_id,
        b=other.row.turn_id,
        same=same,
        only_a=[str(name) for name in names if name not in other.steps],
        only_b=[str(name) for name in names if name not in one.steps],
        different=different,
        forked_from=fork.inbound.forked_from if fork is not None else None,
        steps_taken=fork.inbound.steps_taken if fork is not None else 0,
    )


def _is_fork(past: Past, source: Past) -> bool:
    return past.inbound.forked_from == source.row.turn_id


def _issued(name: StepName, one: Past, other: Past) -> tuple[int, StepName]:
    return min(past.steps[name].issued for past in (one, other) if name in past.steps), name


def _before_the_steps(one: Past, other: Past) -> Iterator[Different]:
    payloads = [bytes(past.inbound.payload) for past in (one, other)]
    if payloads[0] != payloads[1]:
        yield Different(where="input", what="payload", a=_value(payloads[0]), b=_value(payloads[1]))
    if one.version != other.version:
        yield Different(where="version", what="of the handler", a=one.version, b=other.version)


def _step(name: StepName, one: StepRecord | None, other: StepRecord | None) -> Iterator[Different]:
    where = str(name)
    if one is None or other is None:
        a, b = (None if step is None else str(step.status) for step in (one, other))
        yield Different(where=where, what="only in one", a=a, b=b)
        return
    for what in _ASPECTS:
        a, b = getattr(one, what), getattr(other, what)
        if a != b:
            yield Different(where=where, what=what, a=_value(a), b=_value(b))


def _after_the_steps(one: Past, other: Past) -> Iterator[Different]:
    if one.row.state != other.row.state:
        yield Different(where="outcome", what="state", a=str(one.row.state), b=str(other.row.state))
    bodies = [past.deliverable.body if past.deliverable is not None else b"" for past in (one, other)]
    if bodies[0] != bodies[1]:
        yield Different(where="deliverable", what="value", a=one.end(), b=other.end())


def _value(stored: Any) -> Any:
    """Return a stored value decoded; other facts as they are, in plain types."""
    if isinstance(stored, bytes):
        return msgspec.msgpack.decode(stored) if stored else None
    return str(stored) if isinstance(stored, str) else stored
