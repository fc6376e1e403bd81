"""Make the golden store of the present schema: `python tests/golden/make.py`; run once before a schema is released.

It holds a turn of every kind that a migration may meet, as a killed process leaves them. A file once released is never
made again: it stands for what is on users' disks.
"""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from turnkeeper import Effect, Retry, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.sql import migrations

FOLDER = Path(__file__).parent


@tool(effect=Effect.PURE)
async def find(order: str) -> dict:
    return {"order": order, "cents": 500}


@tool(effect=Effect.IDEMPOTENT)
async def reserve(order: str) -> str:
    return f"reserved {order}"


@tool(effect=Effect.EFFECTFUL, timeout_s=0.05)
async def refund(order: str, cents: int) -> str:
    if order == "doubtful":
        await asyncio.sleep(10)
    return f"refunded {cents} for {order}"


called: list[str] = []


@tool(effect=Effect.IDEMPOTENT, retry=Retry(base_s=0.01))
async def flaky(order: str) -> str:
    called.append(order)
    if called.count(order) == 1:
        raise ConnectionError("busy")
    return f"noted {order}"


@tool(effect=Effect.EFFECTFUL)
async def killed(order: str) -> str:
    print("under way", flush=True)
    await asyncio.sleep(3_600)
    return order


@agent("desk", tools=[find, reserve, refund, flaky, killed], state=dict[str, int])
async def desk(turn: Turn) -> str:
    order = turn.input["order"]
    turn.state[order] = turn.state.get(order, 0) + 1
    found = await turn.call(find, order)
    await turn.call(reserve.keyed("the order"), order)
    if order == "broken":
        raise ValueError("no such order")
    if order == "retried":
        return await turn.call(flaky, order)
    if order == "killed":
        return await turn.call(killed, order)
    return await turn.call(refund, order, found["cents"])


@agent("resting")
async def resting(turn: Turn) -> None:
    pass


async def main(path: str) -> None:
    settings = Settings(retries_max=1, retry_base_s=0.01)
    async with Runtime(path, [desk], settings=Settings(idempotency_s=0.001)) as runtime:
        await runtime.ask("pruned", "desk", {"order": "W0", "note": "x" * 20_000}, key="zero")
        await runtime.ask("pruned", "desk", {"order": "W0"})
    async with Runtime(path, [desk, resting], settings=settings) as runtime:
        await runtime.say("agents/resting", "pause", "for the night", by="ann")
        await runtime.ask("done", "desk", {"order": "W1", "note": "x" * 5_000}, key="one")
        await runtime.tell("done", "desk", {"order": "W1", "note": "x" * 5_000}, key="one")
        await runtime.ask("done", "desk", {"order": "W2"}, tenant="acme")
        await runtime.ask("failed", "desk", {"order": "broken"}, key="two")
        retried = await runtime.ask("retried", "desk", {"order": "retried", "note": "x" * 20_000}, key="five")
        await runtime.fork(retried.turn_id, from_step=2, key="six")
        await runtime.ask("retried", "desk", {"order": "retried", "note": "x" * 20_000}, key="seven")
        if await runtime.prune(older_than_s=0.0) != 2:
            sys.exit("what was to be pruned is still there")
        await runtime.tell("doubt", "desk", {"order": "doubtful"}, key="three")
        await runtime.tell("doubt", "desk", {"order": "W3"}, key="queued behind")
        while runtime.statistics().suspended == 0:  # noqa: ASYNC110 - a runtime tells nobody that a turn stands
            await asyncio.sleep(0.01)
        await runtime.tell("killed", "desk", {"order": "killed"}, key="four")
        await asyncio.sleep(3_600)


def make(path: Path) -> None:
    """Run the process, kill it inside an effect, and bring its log into the file."""
    child = subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"under way\n"
    child.kill()
    child.wait()
    child.stdout.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for beside in (".lock", ".door"):
        Path(f"{path}{beside}").unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        target = FOLDER / f"schema-{len(migrations())}.db"
        if target.exists():
            sys.exit(f"{target} is there: what was released is never made again")
        make(target)
        print(target)
