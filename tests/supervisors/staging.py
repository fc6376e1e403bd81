"""Staging: an agent that is held at its gate until a test opens it, and what is told to it meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from looking import check_invariants, rows

from turnkeeper import Agent, Receipt, Runtime, Settings, Turn, agent
from turnkeeper.actors.store.audit import audit

SETTINGS = Settings(synchronous="OFF", retry_base_s=0.001, shutdown_s=0.02, suspend_s=0.001)


class Stage:
    """An agent `play`: it notes what it was given, and is held at its gate until the test opens it.

    With `stands` its first turn waits for a signal before that. With `steers` it takes what was steered to it, before
    and after. A `deaf` one swallows its cancellation.
    """

    def __init__(self, *, stands: bool = False, steers: bool = True, deaf: bool = False, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.started: list[Any] = []
        self.heard: list[Any] = []
        self.deaf = deaf

        @agent("play", **options)
        async def play(turn: Turn) -> dict[str, Any]:
            self.started.append(turn.input)
            heard = [*(await turn.steering())] if steers else []
            if stands and turn.input == "first":
                await turn.signal("go")
            await self._held()
            heard += await turn.steering() if steers else []
            self.heard += heard
            return {"messages": turn.messages, "heard": heard}

        self.play: Agent = play

    async def _held(self) -> None:
        while True:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
            else:
                return


@asynccontextmanager
async def staged(path: Path, stage: Stage, settings: Settings = SETTINGS) -> AsyncIterator[Runtime]:
    """A runtime on a real file; after it, every invariant holds."""
    with anyio.fail_after(20):
        async with Runtime(path, [stage.play], settings=settings) as runtime:
            yield runtime
    check_invariants(path)
    assert audit(path).violations == []


async def tell(runtime: Runtime, said: object, arrival: str | None = None, key: str | None = None) -> Receipt:
    return await runtime.tell("s", "play", said, arrival=arrival, key=key)


async def values(*receipts: Receipt) -> list[Any]:
    return [(await receipt.deliverable()).value for receipt in receipts]


def states(path: Path) -> list[str]:
    return [state for (state,) in rows(path, "SELECT state FROM turns ORDER BY turn_id")]


def stopping(runtime: Runtime) -> bool:
    """Say whether the one turn that runs was told to stop."""
    return any(agent.current is not None and agent.current.stop is not None for agent in runtime._reception.agents())


def answer(*messages: object, heard: list[Any] | None = None) -> dict[str, Any]:
    return {"messages": [*messages], "heard": heard or []}
