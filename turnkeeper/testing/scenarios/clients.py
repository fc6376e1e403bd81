"""Difficult clients: equal texts, taken keys, keys past their time, clients that hang up, crowds, restarts.

Each client does one thing to the runtime and knows what must come of it, whatever the schedule and the kills.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from turnkeeper.actors.agent import agent
from turnkeeper.actors.receipt import Result
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import IdempotencyConflict, MailboxFull, ShuttingDown, StorageFailed
from turnkeeper.kernel.settings import Settings
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.scenarios.patience import check_settled, patiently
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life"]

_SETTINGS: Final = Settings(
    mailbox_len_max=3,
    idle_agents_max=1,
    idempotency_s=10_000.0,
    lease_s=300.0,
    retries_max=10_000,
    recoveries_max=10_000,
    shutdown_s=2.0,
    storm_ends_max=0,
)
_CLIENTS: Final = 6
_ROUNDS_S: Final = (0.002, 0.004, 0.01, 0.3, 0.31, 3.0)
"""When the first runtime is closed: while turns start, while they run, while they end."""


@agent("echo")
async def _echo(turn: Turn) -> object:
    """Answer with what came, after as many steps and seconds as it says."""
    said: list[float] = turn.input
    for pause_s in said:
        await turn.step("think", asyncio.sleep, pause_s)
    return said


async def life(world: World) -> None:
    """Let a few clients do their worst; the runtime is closed in the middle of it, and started again."""
    draw = Random(f"clients {world.seed}")
    clients = _Clients(world)
    kinds = [draw.choice(clients.kinds) for _ in range(_CLIENTS)]
    if draw.random() < 0.1:  # noqa: PLR2004 - it takes a hundred heartbeats, each of which may be the last
        kinds.append(clients.expired)
    if draw.random() < 0.5 and not world.happened("closed in the middle"):  # noqa: PLR2004 - half of the runs
        async with world.runtime([_echo], settings=_SETTINGS) as runtime:
            work = [asyncio.create_task(kind(runtime, f"client {place}")) for place, kind in enumerate(kinds)]
            await asyncio.wait(work, timeout=draw.choice(_ROUNDS_S))
        world.happen("closed in the middle")
        await _end(work)
    async with world.runtime([_echo], settings=_SETTINGS) as runtime, asyncio.TaskGroup() as group:
        for place, kind in enumerate(kinds):
            group.create_task(kind(runtime, f"client {place}"))
    check_settled(world)


async def _end(work: list["asyncio.Task[None]"]) -> None:
    """Wait for clients whose runtime has closed: each has got its answer, or is told so."""
    for error in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(error, BaseException) and not isinstance(error, ShuttingDown | StorageFailed):
            raise error


class _Clients:
    """What clients do, each in a session of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.kinds: list[Callable[[Runtime, str], Coroutine[Any, Any, None]]] = [
            self._equal_texts,
            self._taken_key,
            self._hung_up,
            self._crowd,
            self._insist,
        ]

    def _expect(self, rule: str, *, holds: bool, what: str) -> None:
        if not holds:
            self._world.report(Violated(rule, what))

    async def _equal_texts(self, runtime: Runtime, session: str) -> None:
        """Say the same under two keys, and twice without one: four messages."""
        first = await patiently(lambda: runtime.tell(session, "echo", [0.01], key="a"))
        second = await patiently(lambda: runtime.tell(session, "echo", [0.01], key="b"))
        turns = [first.turn_id, second.turn_id]
        for _ in range(2):
            try:
                turns.append((await runtime.tell(session, "echo", [0.01])).turn_id)
            except (StorageFailed, MailboxFull):
                turns.append(-len(turns))
        self._expect("only a key makes a duplicate", holds=len(set(turns)) == len(turns), what=f"{session}: {turns}")

    async def _taken_key(self, runtime: Runtime, session: str) -> None:
        """Say something else under a key that is taken, while its turn is live and after."""
        first = await patiently(lambda: runtime.tell(session, "echo", [0.5], key="k"))
        for _ in range(2):
            try:
                other = await patiently(lambda: runtime.tell(session, "echo", [0.6], key="k"))
                self._expect("a key has one payload", holds=False, what=f"{session}: {other}")
            except IdempotencyConflict:
                pass
            await patiently(lambda: runtime.ask(session, "echo", [0.5], key="k"))
        answer = await patiently(lambda: runtime.ask(session, "echo", [0.5], key="k"))
        self._expect("one receipt a key", holds=answer.turn_id == first.turn_id, what=f"{session}: {answer}")

    async def _hung_up(self, runtime: Runtime, session: str) -> None:
        """Hang up while telling, and do not ask again for a long time: what was accepted runs all the same."""
        draw = Random(f"hung up {self._world.seed} {session}")
        telling = asyncio.create_task(runtime.ask(session, "echo", [0.01], key="k"))
        await asyncio.sleep(draw.choice((0.0, 0.001, 0.004, 0.02)))
        telling.cancel()
        await asyncio.wait([telling])
        if not telling.cancelled():
            telling.exception()
        await asyncio.sleep(30.0)
        answer = await patiently(lambda: runtime.ask(session, "echo", [0.01], key="k"))
        self._expect("the known answer", holds=answer.value == [0.01], what=f"{session}: {answer}")

    async def _crowd(self, runtime: Runtime, session: str) -> None:
        """Send more at once than the mailbox holds; who is refused comes again under his key."""

        def send(number: int) -> Coroutine[Any, Any, Result]:
            return patiently(lambda: runtime.ask(session, "echo", [0.3, 0.01 * number], key=f"k{number}"))

        sent = map(send, range(7))
        for number, answer in enumerate(await asyncio.gather(*sent)):
            holds = answer.value == [0.3, 0.01 * number]
            self._expect("the known answer", holds=holds, what=f"{session} {number}: {answer}")

    async def _insist(self, runtime: Runtime, session: str) -> None:
        """Send one message again and again, whatever becomes of the first: every time it has the same answer."""

        async def once_more(number: int) -> int:
            await asyncio.sleep(0.003 * number)
            answer = await patiently(lambda: runtime.ask(session, "echo", [0.01, 0.01, 0.01], key="k"))
            return answer.turn_id

        turns = set(await asyncio.gather(*map(once_more, range(8))))
        self._expect("one receipt a key", holds=len(turns) == 1, what=f"{session}: {turns}")

    async def expired(self, runtime: Runtime, session: str) -> None:
        """Send a key again when its time to live is over: it is a new message."""
        first = await patiently(lambda: runtime.ask(session, "echo", [0.01], key="k"))
        await asyncio.sleep(_SETTINGS.idempotency_s + 1)
        second = await patiently(lambda: runtime.tell(session, "echo", [0.01], key="k"))
        holds = second.turn_id != first.turn_id and not second.duplicate
        self._expect("a key has its time", holds=holds, what=f"{session}: {second} after {first}")
        answer = await second.deliverable()
        self._expect("the known answer", holds=answer.value == [0.01], what=f"{session}: {answer}")
