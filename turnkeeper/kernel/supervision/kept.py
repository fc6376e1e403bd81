"""Kept: what a store keeps of supervision must add up; `audit` asks here."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.errors import InvalidName
from turnkeeper.kernel.history import Violation
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.noted import (
    EVENTS_MAX,
    EVENTS_PER_PATH_MAX,
    SAID,
    ChildEvent,
    ChildEventKind,
    DesiredRow,
    check_path,
    decode_note,
    digest_of_desired,
    digest_of_event,
)

__all__ = ["check_noted"]

_WANTED: Final[Mapping[str, Desired]] = MappingProxyType({str(kind): wanted for kind, wanted in SAID.values()})
_KINDS: Final = frozenset(map(str, ChildEventKind))


def check_noted(rows: Rows) -> Iterator[Violation]:
    """Yield everything that is kept of supervision and may not be so."""
    events = rows.child_events(limit=2 * EVENTS_MAX)
    by_path: defaultdict[str, list[ChildEvent]] = defaultdict(list)
    for event in events:
        by_path[event.path].append(event)
        for what in _wrong_with_event(event):
            yield Violation("child events", f"event {event.event_id}", what)
    yield from _check_kept(events, by_path)
    wanted = {row.path: row for row in rows.desired()}
    for row in wanted.values():
        for what in _wrong_with_desired(row):
            yield Violation("desired state", row.path, what)
    yield from _check_said(wanted, by_path, events[-1].event_id if events else 0)


def _wrong_with_event(event: ChildEvent) -> Iterator[str]:
    if event.kind not in _KINDS:
        yield f"is of no kind that is known: {event.kind!r}"
    yield from _wrong_with_path(event.path)
    try:
        decode_note(event)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        yield f"its detail cannot be decoded: {error}"
    if event.digest != digest_of_event(event):
        yield "is not what was written"


def _wrong_with_desired(row: DesiredRow) -> Iterator[str]:
    if row.desired not in set(Desired):
        yield f"{row.desired!r} is nothing that can be wanted"
    yield from _wrong_with_path(row.path)
    if row.digest != digest_of_desired(row):
        yield "is not what was written"


def _wrong_with_path(path: str) -> Iterator[str]:
    try:
        check_path(path)
    except InvalidName as error:
        yield str(error)


def _check_kept(events: Sequence[ChildEvent], by_path: Mapping[str, Sequence[ChildEvent]]) -> Iterator[Violation]:
    """Yield what is there and should have gone, and what is gone and should be there.

    An event goes only once so many later ones of its path stand, or so many later ones in all: a number that is
    missing lies before the oldest event of a path that is full.
    """
    for path, of_path in by_path.items():
        if len(of_path) > EVENTS_PER_PATH_MAX:
            yield Violation("child events", path, f"has {len(of_path)} events; {EVENTS_PER_PATH_MAX} are kept")
    numbers = [event.event_id for event in events]
    first = max(1, numbers[-1] - EVENTS_MAX + 1) if numbers else 1
    if numbers and numbers[0] < first:
        yield Violation("child events", f"event {numbers[0]}", f"should have gone; {EVENTS_MAX} are kept in all")
    full = (of_path[0].event_id for of_path in by_path.values() if len(of_path) >= EVENTS_PER_PATH_MAX)
    expected = max(full, default=first)
    for number in numbers:
        if number > expected:
            yield Violation("child events", f"event {expected}", f"is missing; event {number} comes next")
        expected = max(expected, number + 1)


def _check_said(
    wanted: Mapping[str, DesiredRow], by_path: Mapping[str, Sequence[ChildEvent]], newest: int
) -> Iterator[Violation]:
    """Yield what is wanted of somebody without the verb that said so, and the other way round."""
    rule = "desired state = last verb"
    for path in sorted(wanted.keys() | by_path.keys()):
        row, of_path = wanted.get(path), by_path.get(path, ())
        said = next((event.kind for event in reversed(of_path) if event.kind in _WANTED), None)
        desired = row.desired if row is not None else "nothing"
        if said is not None and desired != _WANTED[said]:
            yield Violation(rule, path, f"{desired} is wanted, and {said} was said last")
        whole = len(of_path) < EVENTS_PER_PATH_MAX and newest <= EVENTS_MAX
        if said is None and row is not None and whole:  # of the others the verb may have gone
            yield Violation(rule, path, f"{desired} is wanted, and nobody said so")
