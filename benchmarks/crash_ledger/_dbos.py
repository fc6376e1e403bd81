"""DBOS, as a program: an async workflow of steps on its SQLite store, as its users get it; one process, one executor.

It recovers by itself when launched: what was pending is put back into a queue, and run from its last recorded step.
"""

import asyncio
import importlib
import os
import sys
from typing import Any

from benchmarks._lines import durability
from benchmarks.crash_ledger._outside import EFFECTS, PLAN, Outside, What, answer, asked

_LOOK_S = 0.01
_dbos: Any = importlib.import_module("dbos")  # typed where it is installed, which is not where this is checked
_pool: Any = importlib.import_module("sqlalchemy.pool")
_event: Any = importlib.import_module("sqlalchemy.event")


def say_settings(outside: Outside) -> None:
    """Note how the store is durable, as its connections have it when they are given back."""

    def given_back(connection: Any, _: object) -> None:
        try:
            journal, synchronous = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            )
        except Exception:  # noqa: BLE001 - a connection that was closed has nothing to say
            return
        outside.once(What.SETTINGS, durability(journal, synchronous))

    _event.listen(_pool.Pool, "checkin", given_back)


def declare(outside: Outside) -> Any:
    """Return the workflow: a step without an effect, then three with."""

    async def plan(turn: str) -> str:
        return answer(turn, PLAN)

    async def act(turn: str, step: str) -> str:
        return await outside.act(turn, step)

    planning, acting = _dbos.DBOS.step()(plan), _dbos.DBOS.step()(act)

    async def clerk(turn: str) -> list[str]:
        outside.note(What.LIVE, turn)
        return [await planning(turn), *[await acting(turn, step) for step in EFFECTS]]

    return _dbos.DBOS.workflow(name="clerk")(clerk)


async def work(outside: Outside, clerk: Any) -> None:
    """Keep turns in flight until the process is killed."""

    async def run(_: str, turn: str) -> object:
        with _dbos.SetWorkflowID(turn):
            handle = await _dbos.DBOS.start_workflow_async(clerk, turn)
        outside.note(What.ACKNOWLEDGED, turn)
        return await handle.get_result()

    await outside.keep_in_flight(run)


async def end(outside: Outside) -> None:
    """Wait for what an earlier life left."""

    async def fetch(turn: str) -> None:
        handle = await _dbos.DBOS.retrieve_workflow_async(turn)
        outside.deliver(turn, await handle.get_result(polling_interval_sec=_LOOK_S))

    for failed in await asyncio.gather(*map(fetch, outside.outstanding()), return_exceptions=True):
        if failed is not None:
            print(repr(failed), file=sys.stderr)


async def main() -> None:
    """Work, or end what is left."""
    outside, _ = asked()
    say_settings(outside)
    outside.note(What.ENTERED)
    _dbos.DBOS(
        config={
            "name": "crash-ledger",
            "system_database_url": f"sqlite:///{outside.folder / 'dbos.sqlite'}",
            "log_level": "ERROR",
            "executor_id": "local",
            "application_version": "1",
        }
    )
    clerk = declare(outside)
    _dbos.DBOS.launch()
    await (work(outside, clerk) if outside.life == 1 else end(outside))


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # its threads are not what is measured
