"""Families: agents that ask each other, and what is stored of their turns."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import check_invariants, rows
from msgspec import structs

from turnkeeper import Agent, Runtime, Settings, Turn, agent

STANDING = Settings(synchronous="OFF", retry_base_s=0.001, retries_max=0, shutdown_s=0.02, suspend_s=60.0)
SUSPENDED = structs.replace(STANDING, suspend_s=0.001, idle_agents_max=1)
both = pytest.mark.parametrize("settings", [STANDING, SUSPENDED], ids=["standing", "suspended"])


def asking(agent_id: str, *to: str, **options: Any) -> Agent:
    """An agent that asks others, one after the other, and returns what they say, itself first."""

    @agent(agent_id, **options)
    async def ask(turn: Turn) -> list[Any]:
        said = [agent_id]
        for other in to:
            said += await turn.ask(other, turn.input)
        return said

    return ask


def handing(agent_id: str, to: str, **packet: Any) -> Agent:
    """An agent that hands its turn on, with a packet of its own or a plain one."""

    @agent(agent_id)
    async def hand(turn: Turn) -> None:
        said = {"reason": "yours", "summary": f"from {agent_id}", "goal": "an end"} | packet
        await turn.handoff(to, **said)

    return hand


@agent("leaf")
async def leaf(turn: Turn) -> list[Any]:
    match turn.input:
        case "raise":
            raise ValueError("no")
        case "wait":
            return [await turn.signal("go")]
        case _:
            return ["leaf"]


def parents(path: Path) -> list[tuple[int, int | None, str]]:
    """Return every turn: its number, its parent's, its state."""
    return rows(path, "SELECT turn_id, parent_id, state FROM turns ORDER BY turn_id")


async def refused(path: Path, agents: list[Agent], *, settings: Settings = STANDING) -> Any:
    """Return the failure that asking the first of the agents ends in."""
    async with Runtime(path, agents, settings=settings) as runtime:
        with anyio.fail_after(10):
            result = await runtime.ask("s", agents[0].agent_id, None)
    check_invariants(path)
    return result.failure
