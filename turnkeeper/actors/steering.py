"""Steering: what joined a turn, as its handler is given it."""

from collections.abc import Awaitable
from typing import Any, Final

import msgspec

from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.values import decode
from turnkeeper.kernel.arrival import Arrived
from turnkeeper.kernel.joining import Handed

__all__ = ["HANDED_BYTES", "Steering"]

HANDED_BYTES: Final = 32
"""What a message takes beside its payload in the record of a step that hands it over; at most, and the list's own."""


class Steering:
    """What joined one turn, for one run of it."""

    __slots__ = ("_bytes_max", "_turn")

    def __init__(self, turn: OpenTurn, bytes_max: int) -> None:
        """Give a run what joined its turn; `bytes_max` is how large a recorded value may be."""
        self._turn = turn
        self._bytes_max = bytes_max

    def coalesced(self) -> list[Any]:
        """Return what joined the turn before it first began, or its source where it is a fork."""
        turn = self._turn
        if turn.coalesced is not None:  # as its edges have it
            return [decode(payload, "a message") for payload in turn.coalesced]
        fork = turn.arrival.fork
        if fork is None and not turn.joined:
            return []
        joined = [one.payload for one in turn.joined.values() if one.arrived == Arrived.COALESCED]
        return [decode(payload, "a message") for payload in (*(fork.coalesced if fork else ()), *joined)]

    def look(self) -> list[Handed]:
        """Return what was steered to the turn and nobody has taken: as much as fits into one record."""
        found: list[Handed] = []
        room = self._bytes_max
        for one in self._turn.steered:
            room -= len(one.payload) + HANDED_BYTES
            if room < 0:
                break
            found.append(Handed(one.turn_id, msgspec.Raw(one.payload)))
        return found

    async def take(self, step: Awaitable[list[Handed]]) -> list[Any]:
        """Take what a step has looked up. Between its look and its record nothing is awaited: none is taken twice."""
        handed = await step
        self._turn.taken.update(receipt_id for receipt_id, _ in handed)
        return [payload for _, payload in handed]
