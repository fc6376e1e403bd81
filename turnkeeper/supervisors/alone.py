"""Alone: a supervisor as a root of its own, beside no runtime."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from turnkeeper.kernel.errors import TooManyRestarts
from turnkeeper.kernel.supervision.child import Exit

if TYPE_CHECKING:
    from turnkeeper.supervisors.supervisor import Supervisor

__all__ = ["alone", "too_many"]


@asynccontextmanager
async def alone(supervisor: "Supervisor") -> AsyncGenerator["Supervisor", None]:
    """Run it; see `Supervisor.running`."""
    given_up: list[Exit] = []
    try:
        if (starting := supervisor.start(given_up.append)) is not None:
            await starting
        yield supervisor
    finally:
        await supervisor.over()
        if (stopping := supervisor.stop(0.0)) is not None:
            await stopping
    if given_up:
        raise too_many(supervisor, given_up[0].error)


def too_many(supervisor: "Supervisor", child: str) -> TooManyRestarts:
    """Return what is said of a supervisor that gives up, and of the child that fell last."""
    borne = supervisor.intensity
    return TooManyRestarts(supervisor.path or "the root", child, borne.restarts_max, borne.within_s)
