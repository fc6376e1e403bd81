"""Joining: the messages that came to a turn after its own, as its edges tell of them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from turnkeeper.kernel.arrival import Arrived, Policy
from turnkeeper.kernel.edge import Edge, EdgeKind, Inbound, Steered, StepResult, decode_detail
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.receipt import payload_digest

__all__ = ["STEERING", "Handed", "coalesced_of", "handed_of", "joined_of"]

STEERING: Final = "turn.steering"
"""The name of the steps with which a handler takes what was steered to its turn."""


class Handed(NamedTuple):
    """One message in the result of such a step: the number of its receipt, and its payload."""

    receipt_id: int
    payload: Any


_handed: Final = msgspec.msgpack.Decoder(list[Handed])


def joined_of(actor_id: int, edges: Iterable[Edge]) -> dict[int, Arrival]:
    """Return what joined a turn, by the numbers of the receipts, in the order of acceptance."""
    joined: dict[int, Arrival] = {}
    for edge in edges:
        if edge.kind != EdgeKind.STEERED:
            continue
        detail = decode_detail(edge)
        if isinstance(detail, Steered):
            payload = bytes(detail.payload)
            joined[detail.receipt_id] = Arrival(
                detail.receipt_id,
                actor_id,
                detail.key,
                payload,
                payload_digest(payload),
                edge.at,
                detail.expires_at,
                arrived=Arrived.COALESCED if detail.policy == Policy.COALESCE else Arrived.STEERED,
            )
    return joined


def coalesced_of(edges: Sequence[Edge]) -> list[bytes]:
    """Return the payloads that joined a turn before it began; of a fork, those of its source."""
    inbound = decode_detail(edges[0]) if edges else None
    before = [bytes(payload) for payload in inbound.coalesced] if isinstance(inbound, Inbound) else []
    joined = joined_of(0, edges).values()
    return before + [one.payload for one in joined if one.arrived == Arrived.COALESCED]


def handed_of(edges: Iterable[Edge]) -> Iterator[int]:
    """Yield the receipts of the messages that the handler has had, as often as its record says so.

    A fork's record names those of the turn that it was taken from.
    """
    for edge in edges:
        detail = decode_detail(edge) if edge.kind == EdgeKind.STEP_SUCCEEDED else None
        if isinstance(detail, StepResult) and detail.name == STEERING:
            with suppress(msgspec.ValidationError):  # a step of the user's own that has this name
                yield from (one.receipt_id for one in _handed.decode(detail.result))
