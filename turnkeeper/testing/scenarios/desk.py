"""The support desk: customers write, triage sends them on, billing and airline act, a person reviews.

Every message arrives under a key; some arrive twice; tools hang or are slow; the process is killed. At the end every
message has its one answer, every refund and every rebooking has happened once, and nothing else has.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import msgspec

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.receipt import Result
from turnkeeper.actors.tool import DidNotHappen, Happened, Tool, step_context, tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import ToolTimedOut, TurnUnsuccessful
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import Effect
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.arrivals import poisson
from turnkeeper.testing.scenarios.patience import patiently
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["SETTINGS", "life"]

SETTINGS: Final = Settings(retries_max=20, recoveries_max=10_000, turn_s=3_600.0, storm_ends_max=0)
"""Patient: what fails here is the world. Only a tool that hangs in every one of its attempts loses its message."""

_PER_S: Final = 5.5
"""Messages a second where no trace is given: the mean of the Azure LLM inference trace of 2023 (conversations)."""

_CUSTOMERS_OPEN: Final = 6
"""Customers who write in turn; then each is replaced by a new one, so that sessions have a few turns each."""

_MESSAGES_EACH: Final = 4
_REVIEW_ABOVE_CENTS: Final = 40_000
_TOOL_S: Final = 20.0
_MODEL_S: Final = 1.5
_SLOW: Final = 8


class Message(msgspec.Struct, frozen=True):
    """What a customer writes: a matter, and the sum that it is about."""

    number: int
    customer: int
    matter: str
    cents: int


def messages(world: World) -> list[tuple[float, Message]]:
    """Return what will be written and when, the same in every life."""
    draw = Random(f"desk {world.seed}")
    seconds = world.load.hours * 3_600
    arrivals: Sequence[float] = world.load.arrivals or list(poisson(_PER_S, seconds, draw))
    written: list[tuple[float, Message]] = []
    for number, at_s in enumerate(arrivals):
        generation, place = divmod(number, _CUSTOMERS_OPEN * _MESSAGES_EACH)
        customer = generation * _CUSTOMERS_OPEN + int(draw.random() * _CUSTOMERS_OPEN) if place else number
        matter = draw.choice(("refund", "refund", "rebook", "rebook", "question"))
        written.append((at_s, Message(number, customer, matter, draw.randrange(1_000, 60_000))))
    return written


async def life(world: World) -> None:
    """Serve every message that is not answered yet; then check what has happened."""
    desk = _Desk(world)
    written = messages(world)
    loop = asyncio.get_running_loop()
    async with world.runtime(desk.agents(), settings=SETTINGS) as runtime, asyncio.TaskGroup() as customers:
        for at_s, message in written:
            if world.happened(f"answer {message.number}"):
                continue
            if at_s > loop.time():
                await asyncio.sleep(at_s - loop.time())
            customers.create_task(desk.serve(runtime, message), name=f"message {message.number}")
    desk.check([message for _, message in written])


class _Desk:
    """The agents, their tools, and what customers see of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._happened = world.happened
        refund = tool(effect=Effect.EFFECTFUL, timeout_s=_TOOL_S, on_doubt=self._look_up)(self._refund)
        self._tools: dict[str, Tool[..., Any]] = {
            "refund": refund,
            "rebook": tool(effect=Effect.IDEMPOTENT, timeout_s=_TOOL_S)(self._rebook),
            "model": tool(effect=Effect.PURE, timeout_s=_TOOL_S)(self._model),
            "review": tool(effect=Effect.PURE)(self._review),
        }

    # ------------------------------------------------------------ the agents

    def agents(self) -> list[Agent]:
        """Return the desk's agents."""
        tools = self._tools

        @agent("triage")
        async def triage(turn: Turn) -> str:
            message = msgspec.convert(turn.input, Message)
            matter: str = await turn.call(tools["model"], message.number, message.matter)
            return {"refund": "billing", "rebook": "airline"}.get(matter, "")

        @agent("billing")
        async def billing(turn: Turn) -> dict[str, Any]:
            message = msgspec.convert(turn.input["message"], Message)
            await turn.call(tools["model"], message.number, "policy")
            if message.cents > _REVIEW_ABOVE_CENTS and not turn.input["approved"]:
                return {"needs": "reviewer"}
            return {"done": await turn.call(tools["refund"], message.number)}

        @agent("airline")
        async def airline(turn: Turn) -> dict[str, Any]:
            message = msgspec.convert(turn.input["message"], Message)
            seats, fares = await asyncio.gather(
                turn.call(tools["model"].keyed("seats"), message.number, "seats"),
                turn.call(tools["model"].keyed("fares"), message.number, "fares"),
            )
            return {"done": await turn.call(tools["rebook"], message.number), "seen": [seats, fares]}

        @agent("reviewer")
        async def reviewer(turn: Turn) -> bool:
            approved: bool = await turn.call(tools["review"], msgspec.convert(turn.input, Message).number)
            return approved

        return [triage, billing, airline, reviewer]

    # ------------------------------------------------------------ their tools

    async def _model(self, number: int, said: str) -> str:
        await self._take(_MODEL_S, f"model {number} {said}")
        return said

    async def _review(self, number: int) -> bool:
        await asyncio.sleep(60 + 540 * Random(f"review {self._world.seed} {number}").random())
        return True

    async def _refund(self, number: int) -> str:
        await self._take(_MODEL_S, f"refund {number}")
        self._world.happen(f"refund {number}")
        await self._take(_MODEL_S, f"refunded {number}")
        return f"refund {number}"

    async def _look_up(self, number: int) -> Happened | DidNotHappen:
        await self._take(_MODEL_S, f"look up {number}")
        return Happened(f"refund {number}") if self._happened(f"refund {number}") else DidNotHappen()

    async def _rebook(self, number: int) -> str:
        await self._take(_MODEL_S, f"rebook {number}")
        if not self._happened(f"rebook {number}"):
            self._world.happen(f"rebook {number}")
        await self._take(_MODEL_S, f"rebooked {number}")
        return f"rebook {number}"

    async def _take(self, usual_s: float, what: str) -> None:
        """Take some time, or far too much of it."""
        load, step = self._world.load, step_context()
        draw = Random(f"{self._world.seed} {what} {step.attempt}").random
        if draw() < load.hang_rate and not what.startswith("look up"):
            await asyncio.Event().wait()  # until the tool's timeout
        slow = _SLOW if draw() < load.slow_rate else 1
        await asyncio.sleep(usual_s * slow * draw())

    # ------------------------------------------------------------ the customers

    async def serve(self, runtime: Runtime, message: Message) -> None:
        """Bring one message to its answer, as its customer would: by sending again under its key."""
        try:
            answer = await self._answer(runtime, message)
        except TurnUnsuccessful as error:
            if ToolTimedOut.__name__ not in error.reason:
                self._world.report(Violated("the known answer", f"message {message.number}: {error}"))
            self._world.happen(f"given up {message.number}")  # its tool hung in every attempt
        else:
            expected = {"refund": f"refund {message.number}", "rebook": f"rebook {message.number}"}.get(message.matter)
            if answer.get("done") != expected:
                self._world.report(Violated("the known answer", f"message {message.number} got {answer}"))
        self._world.happen(f"answer {message.number}")

    async def _answer(self, runtime: Runtime, message: Message) -> dict[str, Any]:
        session = f"customer-{message.customer}"
        to = (await self._ask(runtime, session, "triage", "", message, message)).value
        if not to:
            return {}
        asked = {"message": message, "approved": False}
        answer: dict[str, Any] = (await self._ask(runtime, session, to, "", asked, message)).value
        if "needs" in answer:
            approved = (await self._ask(runtime, session, "reviewer", "", message, message)).value
            asked = {"message": message, "approved": approved}
            answer = (await self._ask(runtime, session, to, " approved", asked, message)).value
        return answer

    async def _ask(
        self, runtime: Runtime, session: str, to: str, stage: str, payload: object, message: Message
    ) -> Result:
        """Ask until there is an answer; at times deliver twice at once, as networks do."""
        key = f"message {message.number}{stage}"
        again = Random(f"again {self._world.seed} {to} {key}").random() < self._world.load.duplicate_rate
        times = 2 if again else 1
        first, *others = await patiently(
            lambda: asyncio.gather(*(runtime.ask(session, to, payload, key=key) for _ in range(times)))
        )
        if any(other != first for other in others):
            self._world.report(Violated("a duplicate has the same answer", f"{session} {to} {key}"))
        return first

    def check(self, written: Sequence[Message]) -> None:
        """Check the known total: what was asked for has happened, once."""
        for message in written:
            if message.matter == "question":
                continue
            times = self._happened(f"{message.matter} {message.number}")
            if times != 1 and not (times == 0 and self._happened(f"given up {message.number}")):
                said = f"{message.matter} {message.number} happened {times} times"
                self._world.report(Violated("the known total", said))
