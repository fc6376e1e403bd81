"""OpenAI Agents, as a program: `Runner.run` with one SQLiteSession."""

import importlib
from collections.abc import Iterable
from typing import Any

from benchmarks._lines import durability
from benchmarks.double_texting._texting import SESSION, Texting, What, main

_agents: Any = importlib.import_module("agents")  # typed where it is installed: not where this is checked
_interface: Any = importlib.import_module("agents.models.interface")
_responses: Any = importlib.import_module("openai.types.responses")


class Model(_interface.Model):  # type: ignore[misc] # its base is not typed here
    """The model as the library asks for one."""

    def __init__(self, texting: Texting) -> None:
        """Take whom to ask."""
        self._texting = texting

    async def get_response(self, **asked: Any) -> Any:
        """Answer the last of what is asked."""
        reply = await self._texting.model(_texts(asked["input"]))
        text = _responses.ResponseOutputText(text=reply, type="output_text", annotations=[])
        message = _responses.ResponseOutputMessage(
            id=reply, type="message", role="assistant", status="completed", content=[text]
        )
        return _agents.ModelResponse(output=[message], usage=_agents.Usage(), response_id=None)

    def stream_response(self, *_: object, **_more: object) -> Any:
        """Refuse: nothing is streamed here."""
        raise NotImplementedError


def _texts(items: Iterable[Any]) -> list[str]:
    contents = [item["content"] for item in items]
    return [content if isinstance(content, str) else content[0]["text"] for content in contents]


def open_session(texting: Texting) -> Any:
    """Return the session, on its file."""
    return _agents.SQLiteSession(SESSION, texting.folder / "sessions.sqlite")


async def send(texting: Texting, _: str) -> None:
    """Send every message at once."""
    _agents.set_tracing_disabled(disabled=True)
    session = open_session(texting)
    clerk = _agents.Agent(name="clerk", model=Model(texting))

    async def run(text: str) -> str:
        return str((await _agents.Runner.run(clerk, text, session=session)).final_output)

    await texting.send_all(run)
    connection = session._get_connection()  # noqa: SLF001 - it says nowhere else how it is durable
    texting.note(
        What.SETTINGS,
        durability(*(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))),
    )
    session.close()


async def look(texting: Texting, _: str) -> None:
    """Read the session's items."""
    session = open_session(texting)
    texting.keep(_texts(await session.get_items()))
    session.close()


if __name__ == "__main__":
    main(send, look)
