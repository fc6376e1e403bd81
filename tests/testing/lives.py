"""Lives for the kit's own tests: what one process does, sent under keys, so that it can all be sent again."""

import asyncio
import os

import msgspec

from turnkeeper import Agent, DidNotHappen, Effect, Happened, Settings, Turn, agent, tool
from turnkeeper.testing.world import World


class Order(msgspec.Struct, frozen=True):
    """What a customer asks for; `note` makes it as long as it should be."""

    number: int
    note: str = ""


def desk(world: World) -> Agent:
    """An agent whose turn thinks (pure), notifies (idempotent) and charges (effectful, with a probe)."""

    async def charged(order: str) -> Happened | DidNotHappen:
        return Happened(order) if world.happened(f"charge {order}") else DidNotHappen()

    @tool(effect=Effect.IDEMPOTENT)
    async def notify(order: str) -> str:
        world.happen(f"notify {order}")
        return order

    @tool(effect=Effect.EFFECTFUL, on_doubt=charged)
    async def charge(order: str) -> str:
        world.happen(f"charge {order}")
        return order

    @agent("desk")
    async def desk(turn: Turn) -> dict:
        order = f"{turn.session_id}/{turn.input['number']}"
        price = await turn.step("price", lambda: turn.input["number"] * 7)
        await turn.call(notify, order)
        await turn.call(charge, order)
        return {"order": order, "price": price, "note_len": len(turn.input["note"])}

    return desk


async def converse(world: World, sessions: int, asks: int, note: str = "") -> None:
    """Let customers ask the desk, each its questions one after the other."""
    settings = Settings(retry_base_s=0.001)
    async with world.runtime([desk(world)], settings=settings) as runtime:

        async def customer(session: str) -> None:
            for number in range(asks):
                await runtime.ask(session, "desk", Order(number, note), key=f"order {number}")

        await asyncio.gather(*(customer(f"s{number}") for number in range(sessions)))


async def conversations(world: World) -> None:
    """Two customers, two questions each."""
    await converse(world, sessions=2, asks=2)


async def long_conversations(world: World) -> None:
    """Pages enough for SQLite to checkpoint of itself and begin its log anew; in two runtimes, one after the other."""
    await converse(world, sessions=3, asks=6, note="n" * 60_000)
    await converse(world, sessions=3, asks=30, note="n" * 60_000)


async def bursts(world: World) -> None:
    """Everything is told at once, every second inbound twice; then all of it is waited for."""
    async with world.runtime([desk(world)]) as runtime:
        numbers = [number for order in range(6) for number in [order] * (1 + order % 2)]
        receipts = await asyncio.gather(
            *(runtime.tell(f"s{number % 3}", "desk", Order(number), key=f"order {number}") for number in numbers)
        )
        await asyncio.gather(*(receipt.deliverable() for receipt in receipts))


async def careless(world: World) -> None:
    """What the kit must find: an effectful tool that is run again after a crash, whether it happened or not."""

    async def not_looking(order: int) -> DidNotHappen:
        return DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, on_doubt=not_looking)
    async def charge(order: int) -> int:
        world.happen(f"charge {order}")
        return order

    @agent("till")
    async def till(turn: Turn) -> int:
        return await turn.call(charge, turn.input)

    async with world.runtime([till]) as runtime:
        await runtime.ask("s", "till", 1, key="1")


async def raising(world: World) -> None:
    """A life that fails, in the second life only."""
    if world.life > 1:
        raise RuntimeError("out of order")
    await conversations(world)


async def stuck(world: World) -> None:
    """A life that does not end, and says which process it is."""
    world.happen(str(os.getpid()))
    await asyncio.Event().wait()
