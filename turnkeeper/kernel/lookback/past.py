"""The past of a turn: what is stored of it, decoded once, and the words in which it is told."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec

from turnkeeper.kernel.edge import Detail, Edge, Failure, Inbound, StepIntent, Suspended, Wait, decode_detail
from turnkeeper.kernel.errors import StorageFailed, TurnNotFound
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.receipt import FRESH_KEY, ReceiptRow
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.step import StepRecord, fold_steps, version_of
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState

__all__ = ["Past", "Stand", "call_of", "cut", "error_of", "listed", "past_of", "readable", "span", "under"]

_DAMAGE: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
    struct.error,
)
"""What reading can raise where a damaged row holds any value of any type."""
_SAID_LEN_MAX: Final = 100
"""Characters of a stored text in a sentence."""
_ERROR_LEN_MAX: Final = 600
"""Characters of an error's message: the library's own fit, with what to do at their end."""
_LISTED_MAX: Final = 6
"""Names in a sentence."""
_UNITS: Final = ((172_800.0, 86_400.0, "days"), (7_200.0, 3_600.0, "h"), (120.0, 60.0, "min"))


class Stand(NamedTuple):
    """A wait that has no answer: its step, what it waits for, and since when (wall time, s)."""

    step: StepRecord
    wait: Wait
    since: float


class Past(NamedTuple):
    """What is stored of one turn, decoded. Steps stand in issue order; `details` has one entry an edge."""

    row: TurnRow
    address: Address
    receipt: ReceiptRow | None
    inbound: Inbound
    edges: list[Edge]
    details: list[Detail | None]
    steps: dict[StepName, StepRecord]
    deliverable: Deliverable | None

    @property
    def version(self) -> str:
        """Return the version of the handler that the turn was started under; "" where it has none."""
        return version_of(self.details)

    @property
    def ended(self) -> bool:
        """Say whether the turn is terminal."""
        return self.row.state in TERMINAL

    @property
    def in_doubt(self) -> Suspended | None:
        """Return how the turn was suspended, where it stands on an effect in doubt now."""
        last = next((detail for detail in reversed(self.details) if isinstance(detail, Suspended)), None)
        return last if self.row.state == TurnState.SUSPENDED and last is not None and last.step is not None else None

    def stands(self) -> Iterator["Stand"]:
        """Yield the waits of a live turn that have no answer, in the order in which they were asked for."""
        for edge, detail in zip(self.edges, self.details, strict=True):
            if not isinstance(detail, StepIntent) or detail.wait is None or self.ended:
                continue
            step = self.steps[StepName(detail.name, detail.call_key)]
            if step.open:
                yield Stand(step, detail.wait, edge.at)

    def end(self) -> Any:
        """Return what the turn delivered: its value, or the `Failure` it ended with; None while it is live."""
        found = self.deliverable
        if found is None:
            return None
        completed = found.outcome == TurnState.COMPLETED
        return msgspec.msgpack.decode(found.body, type=Any if completed else Failure)


def past_of(rows: Rows, turn_id: int) -> Past:
    """Return what is stored of a turn.

    Raises:
        TurnNotFound: there is no such turn.
        StorageFailed: what is stored of it cannot be read.
    """
    with readable(f"turn {turn_id}"):
        stored = rows.turn(turn_id)
    if stored is None:
        raise TurnNotFound(turn_id)
    with readable(f"turn {turn_id}"):
        address = rows.address(stored.row.actor_id)
        edges = [edge for _, edge in rows.edges(turn_id)]
        details = [decode_detail(edge) for edge in edges]
        inbound = details[0]
        if address is None or not isinstance(inbound, Inbound):
            raise ValueError("it has no inbound" if address is not None else "its actor is not there")
        steps = fold_steps(edges)
        deliverable = rows.deliverable(turn_id)
        return Past(stored.row, address, stored.receipt, inbound, edges, details, steps, deliverable)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Say in words that what is stored of a turn cannot be read.

    Raises:
        StorageFailed: it cannot.
    """
    try:
        yield
    except _DAMAGE as error:
        said = f"what is stored of it cannot be read ({cut(str(error))}); `turnkeeper audit` says what is damaged"
        raise StorageFailed(what, said) from error


# ---------------------------------------------------------------- words


def span(seconds: float) -> str:
    """Return how long something is, in the unit that people would use."""
    for least, unit_s, unit in _UNITS:
        if seconds >= least:
            return f"{seconds / unit_s:.0f} {unit}"
    ms = round(max(seconds, 0.0) * 1_000)
    if ms < 1_000:  # noqa: PLR2004 - a second's
        return f"{ms} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004 - two digits tell enough


def cut(text: str) -> str:
    """Return a stored text on one line, short enough for a sentence."""
    line = " ".join(text.split())
    return line if len(line) <= _SAID_LEN_MAX else f"{line[:_SAID_LEN_MAX]} ..."


def listed(names: Sequence[object]) -> str:
    """Return names as a list in a sentence; of many the first ones, and how many more there are."""
    said = ", ".join(map(str, names[:_LISTED_MAX]))
    more = len(names) - _LISTED_MAX
    return said if more <= 0 else f"{said} and {more} more"


def error_of(failure: Failure | None) -> str:
    """Return a failure in a sentence: its type, and what it said."""
    if failure is None:
        return "an error nobody recorded"
    said = " ".join(failure.message.split())[:_ERROR_LEN_MAX]  # what to do stands at its end
    return f"{failure.type}: {said}" if said else failure.type


def call_of(step: StepRecord) -> str:
    """Return a step's call as people write it: its tool and its arguments."""
    arguments = msgspec.msgpack.decode(step.arguments) if step.arguments else {}
    if not isinstance(arguments, dict):
        arguments = {"": arguments}
    given = ", ".join(f"{name}={value!r}" if name else repr(value) for name, value in arguments.items())
    return f"{step.name.name}({cut(given)})"


def under(key: str) -> str:
    """Return a key in a sentence; a fresh one is none of the sender's."""
    return "without a key" if key.startswith(FRESH_KEY) else f"under key {key!r}"
