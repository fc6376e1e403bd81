"""Replay: recorded conversations as durable turns, each message delivered after the reply before it."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.tool import DidNotHappen, Happened, Tool, step_context
from turnkeeper.actors.turn import Turn
from turnkeeper.cli.conversations import AGENT_ID, Act, BadInput, Call, Conversation, Reply
from turnkeeper.cli.effects import EffectLine, EffectsFile
from turnkeeper.kernel.errors import StorageFailed, TurnkeeperError
from turnkeeper.kernel.lookback.asking import Question
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import Effect
from turnkeeper.supervisors.runtime import Runtime

_STEPS_MAX = 1_000_000
"""A recorded turn has as many steps as it had; the limit is for handlers that loop."""

__all__ = ["TO_PEOPLE", "Ran", "reads", "replay"]

_LOOK_S = 0.2
_PATIENCE = 5
"""How many looks in a row must find the store failing before a replay gives up."""

_READING_VERBS = frozenset(
    {"calculate", "check", "count", "fetch", "find", "get", "list", "look", "lookup", "read", "search", "think", "view"}
)


TO_PEOPLE: Final = frozenset({"transfer_to_human", "transfer_to_human_agents"})
"""Recorded tools that hand the matter to people."""

_PEOPLE_LOOK_S: Final = 0.02
_PEOPLE_TAKE_S: Final = 0.2
"""How often the people look for what is handed to them, and how long they take at most."""


def reads(tool: str) -> bool:
    """Say whether a recorded tool only reads or computes, by its verb; any other is taken to write."""
    return tool.replace("-", "_").split("_")[0].lower() in _READING_VERBS


class Script(msgspec.Struct, frozen=True):
    """The payload of a delivery: what the user said, and what the recorded assistant did then."""

    text: object
    acts: list[Act]


class Ran(msgspec.Struct, frozen=True):
    """What one run did: new turns, transactions, seconds."""

    turns: int
    commits: int
    seconds: float


class World:
    """What the replayed assistant works on: the effects file, and the time that things take."""

    def __init__(self, effects: EffectsFile, think_s: float) -> None:
        """Take the file, and the seconds that a model reply, and an effect's way back, take."""
        self.effects = effects
        self.think_s = think_s
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def happen(self, effect: EffectLine) -> None:
        """Let an effect happen; where it cannot be written, the replay stops and the effect is still to come."""
        try:
            await self.effects.append(effect)
        except OSError as error:
            if not self.broken.done():
                self.broken.set_exception(BadInput(self.effects.file, None, error.strerror or str(error)))
            await asyncio.Event().wait()  # until closing takes the turn back to its queue
        await asyncio.sleep(self.think_s)  # the answer's way back: a crash now leaves the effect in doubt


def assistant(world: World) -> Agent:
    """Return the agent that does what the recorded assistant did: each reply and each tool call is a step."""

    async def recall(text: str) -> str:
        await asyncio.sleep(world.think_s)
        return text

    @agent(AGENT_ID)
    async def handler(turn: Turn) -> str | None:
        said: str | None = None
        for act in msgspec.convert(turn.input, Script).acts:
            match act:
                case Reply(text=text):
                    said = await turn.step("model", recall, text)
                case Call(tool=name, arguments=arguments) if name in TO_PEOPLE:
                    said = await turn.escalate(reason=name, summary=arguments.strip() or name, goal="take it over")
                case Call(tool=name, arguments=arguments) if reads(name):
                    said = await turn.step(name, _recorded(act), arguments)
                case Call(tool=name, arguments=arguments):
                    said = await turn.call(_writing_tool(act, world), arguments)
        return said

    return handler


def _recorded(call: Call) -> Callable[[str], str]:
    """Return the reading tool as it was when recorded."""
    return lambda _arguments: call.result


def _writing_tool(call: Call, world: World) -> Tool[[str], str]:
    """Return the writing tool as it was when recorded, with an effect that really happens."""

    async def write(arguments: str) -> str:
        await world.happen(EffectLine(step_context().idempotency_key, call.tool, arguments))
        return call.result

    async def look_up(arguments: str) -> Happened | DidNotHappen:  # noqa: ARG001 - a probe gets what its tool got
        return Happened(call.result) if world.effects.happened(step_context().idempotency_key) else DidNotHappen()

    return Tool(write, name=call.tool, effect=Effect.EFFECTFUL, on_doubt=look_up)


class People:
    """The people to whom the recorded assistant hands a matter: they answer as recorded, each after a while."""

    def __init__(self, runtime: Runtime) -> None:
        """Work for a runtime."""
        self._runtime = runtime
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Answer whatever is asked, until cancelled; what fails is tried again."""
        try:
            while True:
                with suppress(TurnkeeperError):
                    for one in await self._runtime.approvals():
                        if one.token not in self._at_work:
                            self._at_work[one.token] = asyncio.create_task(self._answer(one))
                await asyncio.sleep(_PEOPLE_LOOK_S)
        finally:
            for task in self._at_work.values():
                task.cancel()

    async def _answer(self, asked: Question) -> None:
        chance = random.Random(f"{asked.session_id}/{asked.turn_id}/{asked.issued}")  # noqa: S311 - not a secret
        await asyncio.sleep(chance.random() * _PEOPLE_TAKE_S)
        try:
            inbound = (await self._runtime.checkpoint(asked.turn_id)).messages[0].content
            act = msgspec.convert(inbound, Script).acts[asked.issued]
            await self._runtime.answer(asked.token, act.result if isinstance(act, Call) else None, by="people")
        except TurnkeeperError:
            del self._at_work[asked.token]  # or nobody would try again


async def replay(
    conversations: Sequence[Conversation],
    db: Path,
    effects: EffectsFile,
    *,
    parallel: int,
    think_s: float,
    progress: Callable[[int], None],
) -> Ran:
    """Deliver every message that has not been answered yet; what an earlier run left is finished first.

    Args:
        conversations: what to deliver; each is a session, and goes on when its last reply has come.
        db: the store.
        effects: where writing tools write.
        parallel: conversations under way at once.
        think_s: how long a model reply, and the way back of an effect, takes.
        progress: called with the number of deliveries answered so far.

    Raises:
        TurnkeeperError: the store cannot be used, or refuses a delivery; what was accepted is intact.
        BadInput: an effect cannot be written; it is still to come, and a next run lets it happen.
    """
    waiting = iter(conversations)
    answered = 0

    async def deliver() -> None:
        nonlocal answered
        for conversation in waiting:  # shared: each worker takes the next
            for delivery in conversation.deliveries:
                script = Script(delivery.text, delivery.acts)
                await runtime.ask(conversation.conversation_id, AGENT_ID, script, key=delivery.key)
                answered += 1
                progress(answered)

    started_s = time.perf_counter()
    world = World(effects, think_s)
    async with Runtime(db, [assistant(world)], settings=Settings(steps_max=_STEPS_MAX)) as runtime:
        workers = [deliver() for _ in range(min(parallel, len(conversations)))]
        delivering = asyncio.gather(*workers)
        watching = asyncio.create_task(_watch(runtime, db))
        answering = asyncio.create_task(People(runtime).run())
        ends: set[asyncio.Future[Any]] = {delivering, watching, world.broken}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in (world.broken, watching):
                if end.done():
                    await end
            await delivering
        finally:
            for task in (watching, answering, delivering):
                task.cancel()
            await asyncio.gather(delivering, watching, answering, return_exceptions=True)
        statistics = runtime.statistics()
    return Ran(statistics.completed, statistics.persistence.commits, time.perf_counter() - started_s)


async def _watch(runtime: Runtime, db: Path) -> None:
    """Give up once the store has failed for a while: a server would wait for room, a command says so and ends.

    Raises:
        StorageFailed: it has.
    """
    failed, failing = 0, ""
    while failed < _PATIENCE:
        await asyncio.sleep(_LOOK_S)
        failing = runtime.statistics().persistence.failing
        failed = failed + 1 if failing else 0
    raise StorageFailed(str(db), failing)
