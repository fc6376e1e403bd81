"""Arrivals: messages with every policy come to a few busy sessions, some twice; turns fail, stand, and are interrupted.

At the end every acknowledged message is in exactly one turn, in order, and what was refused has left nothing.
"""

import asyncio
from collections import defaultdict
from functools import partial
from random import Random
from typing import Any, Final

import msgspec

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.arrival import Arrived, Policy
from turnkeeper.kernel.errors import ActorBusy, ShuttingDown, StorageFailed
from turnkeeper.kernel.settings import Settings
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.scenarios.patience import check_settled, patiently
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["Message", "life", "messages", "small"]

_SETTINGS: Final = Settings(
    mailbox_len_max=6,
    idle_agents_max=1,
    retries_max=10_000,
    recoveries_max=10_000,
    shutdown_s=2.0,
    storm_ends_max=0,
)
_SESSIONS: Final = 2
_MESSAGES: Final = 14
_TRIES: Final = 3
_AGAIN_S: Final = 0.7
_POLICIES: Final = (*Policy, Policy.STEER, Policy.STEER, Policy.COALESCE)


class Message(msgspec.Struct, frozen=True):
    """One message: when it is sent and how, and what its turn does if it opens one."""

    number: int
    session: int
    policy: str
    after_s: float
    twice: bool
    pauses_s: list[float]
    stands_s: float
    fails: bool


def messages(seed: int) -> list[Message]:
    """Return the messages of a seed."""
    draw = Random(f"arrivals {seed}")
    return [
        Message(
            number=number,
            session=draw.randrange(_SESSIONS),
            policy=draw.choice(_POLICIES),
            after_s=round(draw.random() * 2, 3),
            twice=draw.random() < 0.3,  # noqa: PLR2004 - as networks do
            pauses_s=[round(draw.random() / 2, 3) for _ in range(draw.randrange(4))],
            stands_s=draw.choice((0.0, 0.0, 0.0, 0.4)),
            fails=draw.random() < 0.2,  # noqa: PLR2004 - once, and then it is run again
        )
        for number in range(_MESSAGES)
    ]


async def life(world: World) -> None:
    """Send every message; the runtime is closed in the middle of it, and started again."""
    sent = messages(world.seed)
    if world.seed % 2 and not world.happened("closed in the middle"):
        work = []
        async with world.runtime(_agents(), settings=_SETTINGS) as runtime:
            crowd = _Crowd(world, runtime)
            work = [asyncio.create_task(crowd.send(message)) for message in sent]
            await asyncio.wait(work, timeout=1.5)
        world.happen("closed in the middle")
        for error in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(error, BaseException) and not isinstance(error, ShuttingDown | StorageFailed):
                raise error
    await _send_all(world, sent)


async def small(world: World) -> None:
    """Send one message of each policy to a turn that runs: few points, for a kill at each of them."""
    policies = (Policy.QUEUE, Policy.QUEUE, Policy.COALESCE, Policy.STEER, Policy.STEER, Policy.INTERRUPT)
    sent = [
        Message(number, 0, policy, number * 0.02, twice=False, pauses_s=[0.05, 0.05], stands_s=0.0, fails=False)
        for number, policy in enumerate(policies)
    ]
    await _send_all(world, sent)


async def _send_all(world: World, sent: list[Message]) -> None:
    async with world.runtime(_agents(), settings=_SETTINGS) as runtime, asyncio.TaskGroup() as group:
        crowd = _Crowd(world, runtime)
        for message in sent:
            group.create_task(crowd.send(message), name=f"message {message.number}")
    crowd.check()
    check_settled(world)


def _agents() -> list[Agent]:
    @agent("listen")
    async def listen(turn: Turn) -> dict[str, list[int]]:
        """Take what comes, and answer with the numbers of all that it was given."""
        message = msgspec.convert(turn.input, Message)
        heard = [one["number"] for one in await turn.steering()]
        for place, pause_s in enumerate(message.pauses_s):
            await turn.step("think", asyncio.sleep, pause_s)
            heard += [one["number"] for one in await turn.steering()]
            if message.fails and turn.attempt == 1 and place == 0:
                raise ConnectionError(str(message.number))
        if message.stands_s:
            await turn.sleep(message.stands_s)
            heard += [one["number"] for one in await turn.steering()]
        return {"messages": [one["number"] for one in turn.messages], "heard": heard}

    return [listen]


class _Crowd:
    """Those who send, and what they are told."""

    def __init__(self, world: World, runtime: Runtime) -> None:
        self._world = world
        self._runtime = runtime
        self._sent: dict[int, Message] = {}
        self._told: dict[int, tuple[Receipt, Result]] = {}

    async def send(self, message: Message) -> None:
        """Send a message until it is accepted, or until it was refused too often; wait for its answer."""
        await asyncio.sleep(message.after_s)
        times = 2 if message.twice else 1
        await asyncio.gather(*(self._deliver(message) for _ in range(times)))

    async def _deliver(self, message: Message) -> None:
        for _ in range(_TRIES):
            try:
                receipt = await patiently(lambda: self._tell(message))
            except ActorBusy:
                await self._refused(message)
                await asyncio.sleep(_AGAIN_S)
            else:
                self._note(message, receipt, await patiently(partial(self._answer, message, receipt)))
                return

    async def _tell(self, message: Message) -> Receipt:
        return await self._runtime.tell(
            f"s{message.session}", "listen", message, key=f"message {message.number}", arrival=message.policy
        )

    async def _answer(self, message: Message, receipt: Receipt) -> Result:
        try:
            return await receipt.deliverable()
        except StorageFailed:
            receipt = await self._tell(message)  # it was acknowledged: under its key it cannot be refused
            return await receipt.deliverable()

    async def _refused(self, message: Message) -> None:
        """Check that a refused message has left nothing; of two deliveries, the other one may have."""
        if message.policy != Policy.REJECT:
            self._world.report(Violated("what is refused", f"{message} was refused"))
        if message.twice:
            return
        key = f"message {message.number}"
        found = await patiently(lambda: self._runtime.receipt(f"s{message.session}", "listen", key))
        if found is not None:
            self._world.report(Violated("what is refused leaves nothing", f"{message} has {found}"))

    def _note(self, message: Message, receipt: Receipt, result: Result) -> None:
        before = self._told.get(message.number)
        if before is not None and (before[0].receipt_id, before[1]) != (receipt.receipt_id, result):
            said = f"{message}: {before} and {receipt} {result}"
            self._world.report(Violated("a duplicate has the same answer", said))
        self._sent[message.number], self._told[message.number] = message, (receipt, result)

    def check(self) -> None:
        """Check that each message is in one turn, which is the one that its receipt led to, and in order."""
        given: dict[int, list[int]] = {}
        interrupts: defaultdict[int, set[int]] = defaultdict(set)
        for number, (receipt, _) in self._told.items():
            if receipt.arrived == Arrived.INTERRUPTED:
                interrupts[self._sent[number].session].add(receipt.receipt_id)
        for number, (receipt, result) in self._told.items():
            if result.failure is not None:
                said, may = result.failure.message, interrupts[self._sent[number].session]
                by = any(f"receipt {one}" in said for one in may)
                self._expect("only an interrupt cancels", by, f"message {number}: {result.failure}")
                continue
            value: dict[str, Any] = result.value
            given[result.turn_id] = [*value["messages"], *value["heard"]]
            self._expect("a message is in its turn", number in given[result.turn_id], f"{number} in {value}, {receipt}")
            for part in value.values():
                numbers = [self._told[one][0].receipt_id for one in part if one in self._told]
                self._expect("in the order of acceptance", numbers == sorted(numbers), f"{value}: receipts {numbers}")
        everywhere = [number for numbers in given.values() for number in numbers]
        self._expect("a message is in one turn", len(everywhere) == len(set(everywhere)), f"{given}")

    def _expect(self, rule: str, holds: bool, what: str) -> None:
        if not holds:
            self._world.report(Violated(rule, what))
