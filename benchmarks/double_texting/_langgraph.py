"""LangGraph, as a program: a graph of one node with AsyncSqliteSaver, one thread, `durability="sync"`."""

import importlib
import operator
from typing import Annotated, Any, TypedDict

from benchmarks._lines import durability
from benchmarks.double_texting._texting import SESSION, Texting, What, main

_aiosqlite: Any = importlib.import_module("aiosqlite")  # typed where it is installed: not where this is checked
_graph: Any = importlib.import_module("langgraph.graph")
_saver: Any = importlib.import_module("langgraph.checkpoint.sqlite.aio")
_THREAD = {"configurable": {"thread_id": SESSION}}


class Chat(TypedDict):
    """The graph's state; what a node returns is added to its end."""

    messages: Annotated[list[str], operator.add]


def declare(texting: Texting, connection: Any) -> Any:
    """Return the graph."""

    async def clerk(state: Chat) -> dict[str, list[str]]:
        return {"messages": [await texting.model(state["messages"])]}

    graph = _graph.StateGraph(Chat)
    graph.add_node("clerk", clerk)
    graph.add_edge(_graph.START, "clerk")
    graph.add_edge("clerk", _graph.END)
    return graph.compile(checkpointer=_saver.AsyncSqliteSaver(connection))


async def send(texting: Texting, _: str) -> None:
    """Send every message at once."""
    async with _aiosqlite.connect(texting.folder / "langgraph.sqlite") as connection:
        graph = declare(texting, connection)
        await graph.checkpointer.setup()
        texting.note(What.SETTINGS, await _settings(connection))

        async def run(text: str) -> str:
            state: Chat = await graph.ainvoke({"messages": [text]}, _THREAD, durability="sync")
            return state["messages"][-1]

        await texting.send_all(run)


async def look(texting: Texting, _: str) -> None:
    """Read the thread's state."""
    async with _aiosqlite.connect(texting.folder / "langgraph.sqlite") as connection:
        state = await declare(texting, connection).aget_state(_THREAD)
        texting.keep(state.values.get("messages", []))


async def _settings(connection: Any) -> str:
    said = []
    for name in ("journal_mode", "synchronous"):
        async with connection.execute(f"PRAGMA {name}") as rows:
            said.append((await rows.fetchone())[0])
    return durability(*said)


if __name__ == "__main__":
    main(send, look)
