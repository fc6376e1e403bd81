"""Ours, as a program: variants `ask` (a doubt waits for somebody), `probe` (a function finds out), `retry` (never do).

`retry` says of each effect that it may be repeated: it is there to see that the ledger counts what it then does.
"""

import asyncio
from pathlib import Path
from typing import Final

from benchmarks._lines import named, read
from benchmarks.crash_ledger._outside import EFFECTS, PLAN, Outside, What, answer, asked, effect, session_of
from turnkeeper import Agent, DidNotHappen, Effect, Happened, OnDoubt, Runtime, Settings, Tool, Turn, agent
from turnkeeper.actors.store.reader import Reader
from turnkeeper.kernel.step import StepStatus, fold_steps

STORE: Final = "ours.db"
_CLERK: Final = "clerk"
_LOOK_S: Final = 0.002


def clerk(outside: Outside, variant: str) -> Agent:
    """Return the agent: a pure step, then three effects."""

    async def look_up(turn: str, step: str) -> Happened | DidNotHappen:
        outside.note(What.LISTED, effect(turn, step))
        return truth(outside, turn, step)

    on_doubt = look_up if variant == "probe" else OnDoubt(variant)
    tools = [Tool(outside.act, name=step, effect=Effect.EFFECTFUL, on_doubt=on_doubt) for step in EFFECTS]

    @agent(_CLERK)
    async def handler(turn: Turn) -> list[str]:
        outside.note(What.LIVE, turn.key)
        planned = await turn.step(PLAN, answer, turn.key, PLAN)
        return [planned, *[await turn.call(tool, turn.key, tool.name) for tool in tools]]

    return handler


def truth(outside: Outside, turn: str, step: str) -> Happened | DidNotHappen:
    """Return what the world outside says of an effect in doubt."""
    return Happened(answer(turn, step)) if outside.happened(turn, step) else DidNotHappen()


async def work(outside: Outside, runtime: Runtime) -> None:
    """Keep turns in flight until the process is killed."""

    async def run(session: str, turn: str) -> object:
        receipt = await runtime.tell(session, _CLERK, turn, key=turn)
        outside.note(What.ACKNOWLEDGED, turn)
        return (await receipt.deliverable()).value

    await outside.keep_in_flight(run)


async def end(outside: Outside, runtime: Runtime) -> None:
    """End what an earlier life left, without new traffic: what has to be known is told, what was promised fetched."""
    await _still(runtime)
    await settle(outside, runtime)
    for turn in outside.outstanding():
        receipt = await runtime.receipt(session_of(turn), _CLERK, turn)
        if receipt is not None:
            delivered = await receipt.deliverable()
            outside.deliver(turn, None if delivered.failure else delivered.value)
    await _still(runtime)


async def _still(runtime: Runtime) -> None:
    """Return when every turn that is left stands on a doubt."""
    while (now := runtime.statistics()).running or now.queued:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(_LOOK_S)


async def settle(outside: Outside, runtime: Runtime) -> None:
    """List every doubt that stands, then answer each truthfully."""
    standing = await runtime.doubts()
    for doubt in standing:
        outside.note(What.LISTED, effect(doubt.arguments["turn"], doubt.tool))
    for doubt in standing:
        found = truth(outside, doubt.arguments["turn"], doubt.tool)
        await runtime.resolve(doubt.turn_id, found, token=doubt.token)


def unrecorded(folder: Path) -> set[str]:
    """Return the effects that were begun and whose outcome the store does not hold: all of them are in doubt."""
    recorded: set[str] = set()
    with Reader(folder / STORE) as reader:
        for session in list(reader.sessions()):
            for turn in reader.turns(session.actor_id):
                steps = fold_steps(edge for _, edge in reader.edges(turn.row.turn_id))
                if turn.receipt is not None:
                    recorded |= {
                        effect(turn.receipt.key, name.name)
                        for name, step in steps.items()
                        if step.status is StepStatus.SUCCEEDED
                    }
    return named(read(folder), What.BEGUN) - recorded


async def main() -> None:
    """Work, or end what is left."""
    outside, variant = asked()
    settings = Settings()
    outside.note(What.SETTINGS, f"WAL, synchronous={settings.synchronous}")
    outside.note(What.ENTERED)
    async with Runtime(outside.folder / STORE, [clerk(outside, variant)], settings=settings) as runtime:
        await (work if outside.life == 1 else end)(outside, runtime)


if __name__ == "__main__":
    asyncio.run(main())
