"""Ours, as a program: an agent whose history is its turns' recorded steps, read from the store's file.

Variants are the policies of arrival: `queue`, `reject`, `coalesce`, `interrupt`, `steer`. `apart` gives every message a
session of its own (never do): it is there to see that turns which run side by side are found.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.double_texting._texting import SESSION, Texting, What, main
from turnkeeper import Agent, Runtime, Settings, Turn, agent
from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.values import decode
from turnkeeper.kernel.edge import Edge, Inbound, decode_detail
from turnkeeper.kernel.step import StepStatus, fold_steps

STORE: Final = "ours.db"
_CLERK: Final = "clerk"
_SAID: Final = ("user", "assistant")
"""The steps that append to the history."""


def history(folder: Path, before: int | None = None) -> list[str]:
    """Return what the file holds: of each turn, in the order of acceptance, what was said in it.

    `before` leaves out that turn, and whatever was accepted later.
    """
    with Reader(folder / STORE) as reader:
        return [
            message
            for session in list(reader.sessions())
            for turn in reader.turns(session.actor_id)
            if before is None or turn.row.turn_id < before
            for message in _said([edge for _, edge in reader.edges(turn.row.turn_id)])
        ]


def _said(edges: Sequence[Edge]) -> list[str]:
    """Return what was said in a turn: what its steps say, or the message it began with if it was cut off before any."""
    said = [
        decode(step.result, "a step's result")
        for name, step in fold_steps(edges).items()
        if name.name in _SAID and step.status is StepStatus.SUCCEEDED
    ]
    opened = decode_detail(edges[0])
    if not said and isinstance(opened, Inbound):
        return [decode(bytes(opened.payload), "the inbound")]
    return said


def clerk(texting: Texting) -> Agent:
    """Return the agent."""

    @agent(_CLERK)
    async def handler(turn: Turn) -> str:
        talk = await asyncio.to_thread(history, texting.folder, turn.turn_id)  # the same whenever it is run again
        texts = turn.messages
        while texts:
            talk += [await turn.step("user", str, text) for text in texts]
            talk.append(await turn.step("assistant", texting.model, talk[:]))
            texts = await turn.steering()
        return talk[-1]

    return handler


async def send(texting: Texting, variant: str) -> None:
    """Send every message at once."""
    settings = Settings()
    texting.note(What.SETTINGS, f"WAL, synchronous={settings.synchronous}")
    async with Runtime(texting.folder / STORE, [clerk(texting)], settings=settings) as runtime:

        async def ask(text: str) -> str:
            session, arrival = (text, None) if variant == "apart" else (SESSION, variant)
            receipt = await runtime.tell(session, _CLERK, text, key=text, arrival=arrival)
            texting.note(What.ACCEPTED, text)
            return str((await receipt.deliverable()).value)

        await texting.send_all(ask)


async def look(texting: Texting, _: str) -> None:
    """Read the file as anybody may."""
    texting.keep(history(texting.folder))


if __name__ == "__main__":
    main(send, look)
