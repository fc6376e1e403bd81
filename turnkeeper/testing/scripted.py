"""Scripted agents: stand-ins whose turns end as a test says: ok, fail, hang, crash, slow."""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any, Final, Literal

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.turn import Turn
from turnkeeper.testing.world import World

__all__ = ["ScriptedFailure", "scripted_agent"]

Ending = Literal["ok", "fail", "hang", "crash", "slow"]

_SLOW_S: Final = 60.0


class ScriptedFailure(Exception):
    """What a scripted agent raises where its script says `fail`."""


def scripted_agent(
    world: World, agent_id: str, endings: Sequence[Ending] = ("ok",), *, slow_s: float = _SLOW_S, **options: Any
) -> Agent:
    """Return an agent whose n-th turn in this world ends as the n-th word says; the last word stands for all later.

    A turn keeps its ending however often it is run again, also in a later life.

    Args:
        world: where it acts; it outlives the process, and so does the script's place.
        agent_id: the agent's name.
        endings: `ok` returns the turn's input; `fail` raises, in every attempt; `hang` never ends by itself; `crash`
            kills the process in the turn's first run, and is ok in the next life; `slow` is ok after `slow_s`.
        slow_s: how long slow is, s of virtual time.
        **options: `retry` and `turn_s`, as `agent` takes them.

    Raises:
        ValueError: a word is none of these, or there is none.
    """
    unknown = set(endings) - {"ok", "fail", "hang", "crash", "slow"}
    if unknown or not endings:
        msg = f"endings must be of ok, fail, hang, crash, slow, got {sorted(unknown) or 'none'}"
        raise ValueError(msg)

    @agent(agent_id, **options)
    async def scripted(turn: Turn) -> Any:
        match endings[min(_place(world, turn), len(endings) - 1)]:
            case "fail":
                raise ScriptedFailure(f"turn {turn.turn_id} fails, as scripted")
            case "hang":
                await asyncio.Event().wait()
            case "crash" if not world.happened(f"crash of turn {turn.turn_id}"):
                world.happen(f"crash of turn {turn.turn_id}")
                world.kill()
            case "slow":
                await asyncio.sleep(slow_s)
            case _:
                pass
        return turn.input

    return scripted


def _place(world: World, turn: Turn) -> int:
    """Return which turn of this agent it is, from 0; the world remembers, whatever becomes of the process."""
    for at in count():
        mine, taken = f"{turn.agent_id}: turn {turn.turn_id} has place {at}", f"{turn.agent_id}: place {at} is taken"
        if world.happened(mine):
            return at
        if not world.happened(taken):
            world.happen(taken)
            world.happen(mine)
            return at
    raise AssertionError
