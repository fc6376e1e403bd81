"""DBOS, as a program: a queue with a partition for each session, one workflow at a time in each; polled as by default.

The history is an application's table, read and appended to in steps.
"""

import asyncio
import importlib
import os
from typing import Any, Final

from benchmarks.double_texting._texting import SESSION, Table, Texting, What, main

_dbos: Any = importlib.import_module("dbos")  # typed where it is installed: not where this is checked
_QUEUE: Final = "sessions"
_LOOK_S: Final = 0.01


def declare(texting: Texting) -> Any:
    """Return the workflow: it reads the history, asks the model, appends."""
    table = Table(texting.folder)

    async def read() -> list[str]:
        return table.messages()

    async def append(message: str) -> None:
        table.append(message)

    async def ask(history: list[str]) -> str:
        return await texting.model(history)

    reading, appending, asking = (_dbos.DBOS.step()(step) for step in (read, append, ask))

    async def clerk(text: str) -> str:
        before = await reading()
        await appending(text)
        reply: str = await asking([*before, text])
        await appending(reply)
        return reply

    return _dbos.DBOS.workflow(name="clerk")(clerk)


async def send(texting: Texting, _: str) -> None:
    """Send every message at once; each is enqueued when the one before it is, so that the order is beyond doubt."""
    texting.note(What.SETTINGS, Table.settings)
    _dbos.DBOS(
        config={
            "name": "double-texting",
            "system_database_url": f"sqlite:///{texting.folder / 'dbos.sqlite'}",
            "log_level": "ERROR",
        }
    )
    clerk = declare(texting)
    _dbos.DBOS.launch()
    await _dbos.DBOS.register_queue_async(_QUEUE, partition_concurrency=1)
    in_turn = asyncio.Lock()

    async def run(text: str) -> str:
        async with in_turn:
            with _dbos.SetEnqueueOptions(queue_partition_key=SESSION):
                handle = await _dbos.DBOS.enqueue_workflow_async(_QUEUE, clerk, text)
        texting.note(What.ACCEPTED, text)
        return str(await handle.get_result(polling_interval_sec=_LOOK_S))

    await texting.send_all(run)


async def look(texting: Texting, _: str) -> None:
    """Read the table."""
    texting.keep(Table(texting.folder).messages())


if __name__ == "__main__":
    main(send, look)
    os._exit(0)  # its threads are not what is measured
