"""Being asked: an agent whose turn is an approval, and who looks at what people are asked."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from turnkeeper import Agent, Runtime, Settings, Turn, agent
from turnkeeper.kernel.errors import (
    ApprovalDenied,
    WaitExpired,
    WaitTokenInvalid,
)
from turnkeeper.kernel.lookback.asking import Question

Running = Callable[..., Any]
FAST = Settings(synchronous="OFF", shutdown_s=0.02, suspend_s=0.01, retries_max=0)
DAY_S = 86_400.0


def asking(**how: Any) -> Agent:
    """An agent whose turn is an approval; it says how that ended."""

    @agent("desk")
    async def desk(turn: Turn) -> str:
        try:
            ok = await turn.approval("refund W1", {"order": "W1", "cents": turn.input}, **how)
        except (ApprovalDenied, WaitExpired) as error:
            return f"{type(error).__name__}: {error}"
        return f"{ok.by}: {ok.reason}"

    return desk


async def asked(running: Runtime, count: int = 1, **where: Any) -> list[Question]:
    """Return what people are asked, once that is so much."""
    found: list[Question] = []
    while len(found) != count:
        await asyncio.sleep(0.001)
        found = await running.approvals(**where)
    return found


async def settle(seconds: float = 1.0) -> None:
    """Let virtual time pass, in which turns are suspended."""
    await asyncio.sleep(seconds)


async def refused(call: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(WaitTokenInvalid) as error:
        await call
    return error.value.reason
