"""LangGraph, as a program: a graph of nodes with AsyncSqliteSaver; variants `sync` and `async`, its durability.

It does not recover by itself: the application has to ask each thread that it knows whether it has ended, and run those
that have not again. Nor does it acknowledge: a turn counts as accepted when its first node's checkpoint has been waited
for, which is what `sync` does before the second node starts. `async`, its default, does not wait.
"""

import asyncio
import importlib
from itertools import pairwise
from typing import Any, TypedDict

from benchmarks._lines import durability
from benchmarks.crash_ledger._outside import EFFECTS, PLAN, Outside, What, answer, asked, session_of, sessions

_aiosqlite: Any = importlib.import_module(
    "aiosqlite"
)  # typed where it is installed, which is not where this is checked
_graph: Any = importlib.import_module("langgraph.graph")
_saver: Any = importlib.import_module("langgraph.checkpoint.sqlite.aio")


class Clerk(TypedDict):
    """The graph's state: the turn that runs, and the results of its steps."""

    turn: str
    answers: list[str]


def declare(outside: Outside, saver: Any) -> Any:
    """Return the graph: a node without an effect, then three with."""
    graph = _graph.StateGraph(Clerk)

    async def plan(state: Clerk) -> dict[str, list[str]]:
        outside.once(What.LIVE, state["turn"])
        return {"answers": [answer(state["turn"], PLAN)]}

    def acting(step: str) -> Any:
        async def act(state: Clerk) -> dict[str, list[str]]:
            outside.once(What.LIVE, state["turn"])
            if outside.life == 1:
                outside.once(What.ACKNOWLEDGED, state["turn"])
            return {"answers": [*state["answers"], await outside.act(state["turn"], step)]}

        return act

    graph.add_node(PLAN, plan)
    for step in EFFECTS:
        graph.add_node(step, acting(step))
    order = [_graph.START, PLAN, *EFFECTS, _graph.END]
    for before, after in pairwise(order):
        graph.add_edge(before, after)
    return graph.compile(checkpointer=saver)


async def work(outside: Outside, graph: Any, variant: str) -> None:
    """Keep turns in flight until the process is killed."""

    async def run(session: str, turn: str) -> object:
        started = {"turn": turn, "answers": []}
        state = await graph.ainvoke(started, {"configurable": {"thread_id": session}}, durability=variant)
        return state["answers"]

    await outside.keep_in_flight(run)


async def end(outside: Outside, graph: Any, variant: str) -> None:
    """Look at every thread, run those again that have not ended, and fetch what was promised."""
    outstanding = {session_of(turn): turn for turn in outside.outstanding()}

    async def look(session: str) -> None:
        thread = {"configurable": {"thread_id": session}}
        found = await graph.aget_state(thread)
        # not found.next: that is empty where no more than the input is stored, and the thread has not ended
        state = await graph.ainvoke(None, thread, durability=variant) if found.tasks else found.values
        turn = outstanding.get(session)
        if turn is not None and state.get("turn") == turn:
            outside.deliver(turn, state["answers"])

    await asyncio.gather(*map(look, sessions()))


async def main() -> None:
    """Work, or end what is left."""
    outside, variant = asked()
    outside.note(What.ENTERED)
    async with _aiosqlite.connect(outside.folder / "langgraph.sqlite") as connection:
        saver = _saver.AsyncSqliteSaver(connection)
        await saver.setup()
        graph = declare(outside, saver)
        if outside.life == 1:
            outside.note(What.SETTINGS, await _settings(connection))
        await (work if outside.life == 1 else end)(outside, graph, variant)


async def _settings(connection: Any) -> str:
    said = []
    for name in ("journal_mode", "synchronous"):
        async with connection.execute(f"PRAGMA {name}") as rows:
            said.append((await rows.fetchone())[0])
    return durability(*said)


if __name__ == "__main__":
    asyncio.run(main())
