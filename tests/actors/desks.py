"""Desks: an agent that remembers, and who reads what it has left."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
from looking import rows

from turnkeeper import Runtime, Settings, Turn, agent

SLOW = Settings(synchronous="OFF", retries_max=0, shutdown_s=0.02)


class Desk(msgspec.Struct):
    """What the agents of these tests remember."""

    count: int = 0
    seen: list[str] = []


@agent("desk", state=Desk)
async def desk(turn: Turn) -> int:
    turn.state.count += 1
    turn.state.seen.append(turn.input)
    if turn.input == "broken":
        raise ValueError(turn.input)
    return turn.state.count


def stored(path: Path) -> list[tuple[int, int, Any, int]]:
    """Return every state: whose, its version, its plain value, and which turn left it."""
    found = rows(path, "SELECT actor_id, version, body, turn_id FROM states ORDER BY actor_id")
    return [(actor_id, version, msgspec.msgpack.decode(body), turn_id) for actor_id, version, body, turn_id in found]


async def said(runtime: Runtime, *payloads: object, session_id: str = "s", agent_id: str = "desk") -> list[Any]:
    """Return the values of turns, one after another; of a turn that failed the type of its error and its words."""
    answers = []
    for payload in payloads:
        with anyio.fail_after(5):
            result = await runtime.ask(session_id, agent_id, payload)
        failed = result.outcome != "completed"
        answers.append((result.failure.type, result.failure.message) if failed else result.value)
    return answers
