"""Ways to wait: each with how a turn asks for it, who brings its answer, and what it comes to."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from looking import details, passed, rows, until
from msgspec import structs

from turnkeeper import Agent, Runtime, Settings, Turn, agent
from turnkeeper.kernel.errors import (
    ApprovalDenied,
)

STANDING = Settings(synchronous="OFF", retry_base_s=0.001, shutdown_s=0.02, suspend_s=60.0)
"""Nothing is suspended."""
SUSPENDED = structs.replace(STANDING, suspend_s=0.001)


class Way(NamedTuple):
    """A wait: how a turn asks for it, who brings its answer, and what it comes to."""

    ask: Callable[[Turn], Awaitable[Any]]
    answer: Callable[[Runtime, Path], Awaitable[object]]
    comes_to: Any


async def token(path: Path) -> str:
    """Return the token that the first turn's last wait is answered by, once it is on the disk."""
    await until(lambda: any(intent.wait for intent in details(path, "step_intended")))
    return details(path, "step_intended")[-1].wait.token


async def approved(turn: Turn) -> str:
    return (await turn.approval("pay", {"cents": 5})).by


async def denied(turn: Turn) -> str:
    try:
        await turn.approval("pay")
    except ApprovalDenied as error:
        return error.reason
    return "not denied"


async def escalated(turn: Turn) -> Any:
    return await turn.escalate(reason="lost", summary="a parcel", goal="find it")


WAYS = {
    "approval": Way(approved, lambda runtime, path: _by_token(runtime.approve, path), "ann"),
    "denial": Way(denied, lambda runtime, path: _by_token(runtime.deny, path), "because"),
    "escalation": Way(escalated, lambda runtime, path: _by_token(runtime.answer, path, {"found": 7}), {"found": 7}),
    "signal": Way(lambda turn: turn.signal("go"), lambda runtime, _: runtime.signal("s", "play", "go", [1]), [1]),
    "ask": Way(lambda turn: turn.ask("other"), lambda runtime, _: runtime.signal("s", "other", "go", 8), 8),
    "timer": Way(lambda turn: turn.sleep(0.3), lambda runtime, _: passed(0.0), None),
}


async def _by_token(say: Callable[..., Awaitable[None]], path: Path, *value: object) -> None:
    await say(await token(path), *value, by="ann", reason="because")


@agent("other")
async def other(turn: Turn) -> Any:
    return await turn.signal("go")


def waiting(way: Way, runs: list[int] | None = None) -> list[Agent]:
    """An agent whose turn waits in that way, and the one that it may ask; `runs` are its runs' attempts."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        if runs is not None:
            runs.append(turn.attempt)
        return await way.ask(turn)

    return [play, other]


async def suspended(path: Path, turn_id: int = 1) -> None:
    """Wait until a turn is suspended, by what is on the disk."""
    state = "SELECT state FROM turns WHERE turn_id = ?"
    await until(lambda: path.exists() and rows(path, state, turn_id) == [("suspended",)])


each = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
