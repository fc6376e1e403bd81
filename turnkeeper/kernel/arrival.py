"""Arrivals: what a message comes to that finds its actor at work, by its policy; one table."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from turnkeeper.kernel.errors import ContractViolation

__all__ = ["ARRIVALS", "Arrived", "Found", "Policy", "arrive", "policy_of", "table"]


class Policy(StrEnum):
    """What is to become of a message that arrives while a turn of its actor is live."""

    QUEUE = "queue"  # it waits its turn
    REJECT = "reject"  # it is refused, and nothing is written
    COALESCE = "coalesce"  # it joins the turn that waits last, if that has not begun
    INTERRUPT = "interrupt"  # the turn that runs is cancelled at its next safe point; this one queues
    STEER = "steer"  # it is handed to the turn that runs, at that one's next `turn.steering()`


class Found(StrEnum):
    """How a message finds its actor."""

    IDLE = "idle"  # no turn is live
    WAITING = "waiting"  # turns are live, and none is to be spoken to: they wait for their time, or for the disk
    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPING = "stopping"  # the run was told to stop, and has not ended


class Arrived(StrEnum):
    """What an arrival came to: what its receipt says of it for good, all but `refused`, which gets no receipt."""

    STARTED = "started"  # a turn of its own, at once
    QUEUED = "queued"  # a turn of its own, behind those before it
    COALESCED = "coalesced"  # a part of a turn that had not begun
    STEERED = "steered"  # handed to the turn that was live; a turn of its own if nobody takes it there
    INTERRUPTED = "interrupted"  # queued, and the turn that was live is cancelled
    REFUSED = "refused"  # ActorBusy


ARRIVALS: Final[Mapping[tuple[Policy, Found], Arrived]] = MappingProxyType(
    {
        (Policy.QUEUE, Found.IDLE): Arrived.STARTED,
        (Policy.QUEUE, Found.WAITING): Arrived.QUEUED,
        (Policy.QUEUE, Found.RUNNING): Arrived.QUEUED,
        (Policy.QUEUE, Found.SUSPENDED): Arrived.QUEUED,
        (Policy.QUEUE, Found.STOPPING): Arrived.QUEUED,
        (Policy.REJECT, Found.IDLE): Arrived.STARTED,
        (Policy.REJECT, Found.WAITING): Arrived.REFUSED,
        (Policy.REJECT, Found.RUNNING): Arrived.REFUSED,
        (Policy.REJECT, Found.SUSPENDED): Arrived.REFUSED,
        (Policy.REJECT, Found.STOPPING): Arrived.REFUSED,
        (Policy.COALESCE, Found.IDLE): Arrived.STARTED,
        (Policy.COALESCE, Found.WAITING): Arrived.COALESCED,
        (Policy.COALESCE, Found.RUNNING): Arrived.COALESCED,
        (Policy.COALESCE, Found.SUSPENDED): Arrived.COALESCED,
        (Policy.COALESCE, Found.STOPPING): Arrived.COALESCED,
        (Policy.INTERRUPT, Found.IDLE): Arrived.STARTED,
        (Policy.INTERRUPT, Found.WAITING): Arrived.QUEUED,
        (Policy.INTERRUPT, Found.RUNNING): Arrived.INTERRUPTED,
        (Policy.INTERRUPT, Found.SUSPENDED): Arrived.INTERRUPTED,
        (Policy.INTERRUPT, Found.STOPPING): Arrived.INTERRUPTED,
        (Policy.STEER, Found.IDLE): Arrived.STARTED,
        (Policy.STEER, Found.WAITING): Arrived.QUEUED,
        (Policy.STEER, Found.RUNNING): Arrived.STEERED,
        (Policy.STEER, Found.SUSPENDED): Arrived.STEERED,
        (Policy.STEER, Found.STOPPING): Arrived.STEERED,
    }
)


def arrive(policy: Policy, found: Found, *, resting: bool, joinable: bool) -> Arrived:
    """Return what a message comes to.

    Args:
        policy: its own, or its agent's.
        found: how it finds its actor.
        resting: whether its agent starts nothing now, because it is paused, say: then nothing starts at once.
        joinable: whether a turn waits last that has not begun: without one, there is none to join.
    """
    arrived = ARRIVALS[policy, found]
    if (arrived is Arrived.STARTED and resting) or (arrived is Arrived.COALESCED and not joinable):
        return Arrived.QUEUED
    return arrived


def policy_of(said: str) -> Policy:
    """Return a policy by its name.

    Raises:
        ContractViolation: there is none of that name; the reason lists them.
    """
    try:
        return Policy(said)
    except ValueError as error:
        raise ContractViolation("arrival", f"{said!r} is none of {', '.join(Policy)}") from error


def table() -> str:
    """Return the table in Markdown; docs/arriving.md holds it and a test compares them."""
    lines = [f"| | {' | '.join(Found)} |", f"|{'---|' * (len(Found) + 1)}"]
    for policy in Policy:
        cells = " | ".join(ARRIVALS[policy, found] for found in Found)
        lines.append(f"| `{policy}` | {cells} |")
    return "\n".join(lines)
