"""autogen-core, as a program: an agent with a model context; variants `state` and `factory`.

It keeps agents in memory, and leaves it to the application to store what they say of themselves. `state` writes
`runtime.save_state()` after every turn and loads it at the start, as its documentation shows, and makes its agents
without waiting. `factory` has a file for each agent, read where the agent is made, so that its factory waits.
"""

import asyncio
import importlib
import json
import os
from pathlib import Path
from typing import Any, Final

from benchmarks.double_texting._texting import SESSION, Texting, What, main

_core: Any = importlib.import_module("autogen_core")  # typed where it is installed: not where this is checked
_context: Any = importlib.import_module("autogen_core.model_context")
_models: Any = importlib.import_module("autogen_core.models")
_CLERK: Final = "clerk"
_STATE: Final = "state.json"


def store(folder: Path, state: object) -> None:
    """Replace the file with a state, durably."""
    written = folder / f"{_STATE}.new"
    with written.open("w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    written.replace(folder / _STATE)


def stored(folder: Path) -> Any:
    """Return the stored state, None where there is none yet."""
    file = folder / _STATE
    return json.loads(file.read_text()) if file.exists() else None


class Clerk(_core.BaseAgent):  # type: ignore[misc] # its base is not typed here
    """An agent as the library's guide has them: what is said goes into its model context."""

    def __init__(self, texting: Texting, variant: str) -> None:
        """Begin with nothing said."""
        super().__init__("clerk")
        self._texting = texting
        self._variant = variant
        self._said = _context.UnboundedChatCompletionContext()

    async def on_message_impl(self, message: str, _: object) -> str:
        """Run a turn."""
        await self._said.add_message(_models.UserMessage(content=message, source="user"))
        reply = await self._texting.model([said.content for said in await self._said.get_messages()])
        await self._said.add_message(_models.AssistantMessage(content=reply, source=_CLERK))
        whole = await (self if self._variant == "factory" else self.runtime).save_state()
        store(self._texting.folder, whole)
        return reply

    async def save_state(self) -> Any:
        """Return what was said."""
        return await self._said.save_state()

    async def load_state(self, state: Any) -> None:
        """Go on from what was said."""
        await self._said.load_state(state)


async def start(texting: Texting, variant: str) -> Any:
    """Return a runtime that goes on from what is stored."""
    runtime = _core.SingleThreadedAgentRuntime()

    async def load() -> Clerk:
        clerk = Clerk(texting, variant)
        state = await asyncio.to_thread(stored, texting.folder)
        if state is not None:
            await clerk.load_state(state)
        return clerk

    make = load if variant == "factory" else lambda: Clerk(texting, variant)
    await Clerk.register(runtime, _CLERK, make)
    if variant == "state" and (state := stored(texting.folder)) is not None:
        await runtime.load_state(state)
    runtime.start()
    return runtime


async def send(texting: Texting, variant: str) -> None:
    """Send every message at once."""
    texting.note(What.SETTINGS, "an application's file, replaced, fsync")
    runtime = await start(texting, variant)

    async def run(text: str) -> str:
        return str(await runtime.send_message(text, _core.AgentId(_CLERK, SESSION)))

    await texting.send_all(run)
    await runtime.stop()


async def look(texting: Texting, variant: str) -> None:
    """Ask the agent what was said."""
    runtime = await start(texting, variant)
    state = await runtime.agent_save_state(_core.AgentId(_CLERK, SESSION))
    texting.keep(message["content"] for message in state["messages"])
    await runtime.stop()


if __name__ == "__main__":
    main(send, look)
