"""Cancelling: agents that are held where they are to be cancelled, and what stands of them."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from looking import FAST, rows
from msgspec import structs

from turnkeeper import Effect, OnDoubt, Turn, agent, tool

SUSPENDED = structs.replace(FAST, suspend_s=0.001, retries_max=3)
STANDING = structs.replace(FAST, suspend_s=60.0, insist_s=0.2)


class Gate:
    """Where steps stay until they are let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()

    async def stay(self) -> str:
        self.entered.set()
        await self.opened.wait()
        return "done"


def acting(gate: Gate) -> Any:  # noqa: C901 - one case for each place
    """An agent whose input says where its turn stays."""

    @tool(effect=Effect.IDEMPOTENT)
    async def idempotent() -> str:
        return await gate.stay()

    @tool(effect=Effect.EFFECTFUL)
    async def effectful() -> str:
        return await gate.stay()

    @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.ASK, timeout_s=0.01)
    async def doubtful() -> str:
        await asyncio.sleep(60)
        return "never"

    @agent("play")
    async def play(turn: Turn) -> Any:
        match turn.input:
            case "pure":
                await turn.step("pure", gate.stay)
            case "idempotent":
                await turn.call(idempotent)
            case "effectful":
                await turn.call(effectful)
            case "doubt":
                await turn.call(doubtful)
            case "handler":
                await gate.stay()
            case "deaf":
                gate.entered.set()
                while not gate.opened.is_set():
                    with suppress(asyncio.CancelledError):
                        await gate.opened.wait()
            case "raise":
                gate.entered.set()
                raise ValueError("again")
            case "signal":
                gate.entered.set()
                await turn.signal("go")
            case _:
                pass
        return await turn.step("after", lambda: "completed")

    return play


def states(path: Path) -> list[str]:
    return [state for (state,) in rows(path, "SELECT state FROM turns ORDER BY turn_id")]
