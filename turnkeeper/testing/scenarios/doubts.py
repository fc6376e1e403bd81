"""Doubts, and those who deal with them: operators that answer, forks, a reader of events, pruning.

Turns run scripts of calls that hang, fail and are tried again, alone and side by side (`doubtful`). How each may end is
known, whatever the schedule, the kills and the answers; nothing that happened under one key happens again in a fork.
"""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any, Final

from turnkeeper.actors.agent import agent
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import ContractViolation, StorageFailed, TurnNotFound
from turnkeeper.kernel.settings import Settings
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.scenarios.doubtful import AGENT, Act, Operator, Stages, Work, ends, script
from turnkeeper.testing.scenarios.ledger import check_fork, check_turn, given_up, has_ended, lateness_s, unread
from turnkeeper.testing.scenarios.patience import check_settled, patiently
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life", "small"]

_CLIENTS: Final = 4
_BRIEF_S: Final = 20.0
_LATE_S: Final = 0.5
"""A reader that is awake has each event within this, where nothing is killed and no disk fails."""
_CATCH_UP_S: Final = 60.0
"""Within this a reader of events has read what is committed, without a heartbeat to wake it."""


def _settings(idempotency_s: float, pace: float = 1.0) -> Settings:
    return Settings(
        idempotency_s=idempotency_s,
        lease_s=300.0,
        retries_max=0,
        recoveries_max=10_000,
        shutdown_s=2.0 * pace,
        retry_base_s=0.1 * pace,
        storm_ends_max=0,
    )


async def life(world: World) -> None:
    """Let a few clients ask, fork and ask again; in some worlds keys answer for seconds only, and pruning takes all."""
    draw = Random(f"doubts {world.seed}")
    brief = draw.random() < 0.3  # noqa: PLR2004 - in the others pruning must take nothing
    scripts = [script(draw, f"client {place}") for place in range(_CLIENTS)]
    settings = _settings(_BRIEF_S if brief else 1e6)
    async with world.runtime([Work(world).agent(), _echo], settings=settings) as runtime:
        house = _House(world, runtime, brief=brief)
        async with asyncio.TaskGroup() as beside:
            staff = [beside.create_task(work) for work in house.staff(operators=draw.choice((1, 2)))]
            async with asyncio.TaskGroup() as group:
                for place, stages in enumerate(scripts):
                    forks = [draw.randrange(9) for _ in range(draw.choice((0, 1, 1, 2)))]
                    group.create_task(house.client(f"session {place}", stages, forks))
                if brief:
                    group.create_task(house.insist())
            await house.catch_up()
            for task in staff:
                task.cancel()
    check_settled(world)


async def small(world: World) -> None:
    """A turn that stands on a doubt, beside an effect under way, and its fork: quick enough for real processes."""
    pace = 0.02
    stages = [
        [Act("both.0", "hang", 1, keyed=True), Act("both.1", "act")],
        [Act("then.0", "flaky", 1), Act("then.1", "probed")],
    ]
    async with world.runtime([Work(world, pace).agent()], settings=_settings(1e6, pace)) as runtime:
        house = _House(world, runtime, brief=False, pace=pace)
        watching = asyncio.create_task(
            Operator(world, runtime, Random(f"small {world.seed}"), pace, gives_up=False).watch()
        )
        await house.client("session", stages, [2])
        if await patiently(lambda: runtime.prune(older_than_s=0.0)):
            world.report(Violated("a key that answers is never pruned", "something was"))
        watching.cancel()
        await asyncio.wait([watching])


@agent("echo")
async def _echo(turn: Turn) -> object:
    """Answer with what came."""
    await turn.step("think", asyncio.sleep, 0.1)
    return turn.input


class _House:
    """Clients, and whoever else deals with the runtime meanwhile."""

    def __init__(self, world: World, runtime: Runtime, *, brief: bool, pace: float = 1.0) -> None:
        self._world = world
        self._runtime = runtime
        self._brief = brief
        self._pace = pace
        # What is pruned is lost, and rightly so: the world is not told of what was accepted, or it would miss it.
        self._door: type[Runtime] = Runtime if brief else type(runtime)
        self._closing = False

    def staff(self, operators: int) -> list[Coroutine[Any, Any, None]]:
        """Return the work of those who go on until the clients have left."""
        seed, number = self._world.seed, self._world.life
        answering = [
            Operator(self._world, self._runtime, Random(f"operator {place} {seed} {number}")).watch()
            for place in range(operators)
        ]
        return [*answering, self._prune(Random(f"pruning {seed} {number}")), self._read()]

    # ------------------------------------------------------------ clients

    async def client(self, session: str, stages: Stages, forks: list[int]) -> None:
        """Send a script, fork its turn at each of these steps, and compare every end with what is known."""
        draw = Random(f"{session} {self._world.seed}")
        pauses = [draw.choice((0.0, 5.0, 15.0, 40.0)) for _ in forks]
        again = draw.random() < self._world.load.duplicate_rate
        async with asyncio.TaskGroup() as group:
            receipt = await self._tell(session, AGENT, stages)
            for place, (from_step, pause_s) in enumerate(zip(forks, pauses, strict=True)):
                group.create_task(self._fork(receipt.turn_id, from_step, f"fork {place}", pause_s, stages))
            if again:
                group.create_task(self._finish(receipt, session, stages))
            await self._finish(receipt, session, stages)

    async def _tell(self, session: str, to: str, payload: object) -> Receipt:
        return await patiently(lambda: self._door.tell(self._runtime, session, to, payload, key="k"))

    async def _finish(self, receipt: Receipt, session: str, stages: Stages) -> Result | None:
        """Wait for a turn, and compare its end; None where it was pruned before anybody had read it."""
        try:
            result = await patiently(receipt.deliverable)
        except TurnNotFound:
            if not self._brief:
                raise
            return None
        ended = result.failure.type if result.failure is not None else result.outcome
        known = ends(stages, given_up=given_up(self._world, result.turn_id))
        said = f"{session}, turn {result.turn_id} ended with {ended}"
        self._expect("the known end", holds=ended in known, what=f"{said}, not {sorted(known)}")
        if result.failure is None:
            names = [act.name for stage in stages for act in stage]
            self._expect("the known answer", holds=result.value == names, what=f"{said}: {result.value}")
        check_turn(self._world, result.turn_id)
        return result

    async def _fork(self, turn_id: int, from_step: int, key: str, pause_s: float, stages: Stages) -> None:
        """Fork a turn, running or over, twice under one key; its end is known as its source's is."""
        await asyncio.sleep(pause_s * self._pace)
        key = f"{key} of {turn_id}"
        receipt, over = None, None
        while receipt is None:
            over = has_ended(self._world, turn_id)
            try:
                receipt = await self._fork_once(turn_id, from_step, key)
            except ContractViolation:  # it has not so many steps, or not yet
                if over or over is None:
                    return
                await asyncio.sleep(2.0 * self._pace)
            except TurnNotFound:
                if not self._brief:
                    raise
                return
        if not self._brief:
            same = await self._fork_once(turn_id, from_step, key)
            holds = same.turn_id == receipt.turn_id and same.duplicate
            self._expect("one fork a key", holds=holds, what=f"{key}: {same} after {receipt}")
        await self._finish(receipt, f"{key}, from step {from_step}", stages)
        check_fork(self._world, receipt.turn_id, over=bool(over) and not receipt.duplicate)

    async def _fork_once(self, turn_id: int, from_step: int, key: str) -> Receipt:
        return await patiently(lambda: self._door.fork(self._runtime, turn_id, from_step=from_step, key=key))

    async def insist(self) -> None:
        """Send one message again and again, past its key's time: within it, it has one answer."""
        clock, draw = asyncio.get_running_loop(), Random(f"insist {self._world.seed} {self._world.life}")
        turn_id, until_s = 0, 0.0
        for number in range(8):
            if self._world.happened(f"insisted {number}"):
                continue
            sent_s = clock.time()
            receipt = await self._tell("insisting", "echo", "hello")
            if receipt.turn_id != turn_id:
                self._expect(
                    "a key answers in its time", holds=clock.time() >= until_s, what=f"{receipt}, after {turn_id}"
                )
                turn_id, until_s = receipt.turn_id, 0.0 if receipt.duplicate else sent_s + _BRIEF_S
            self._world.happen(f"insisted {number}")
            await asyncio.sleep(draw.choice((0.0, 3.0, _BRIEF_S - 0.1, _BRIEF_S)) + draw.random() * 0.2)

    # ------------------------------------------------------------ the others

    async def _prune(self, draw: Random) -> None:
        """Prune at any moment. Where every key still answers, nothing may go."""
        while True:
            await asyncio.sleep(draw.uniform(0.5, 10.0))
            try:
                gone = await self._runtime.prune(older_than_s=draw.choice((0.0, 0.0, 3.0)))
            except StorageFailed:
                continue
            self._expect("a key that answers is never pruned", holds=self._brief or not gone, what=f"{gone} turns")
            if self._brief:
                self._world.check()

    async def _read(self) -> None:
        """Read events, slowly, from behind the last one that was dealt with, in this life or an earlier one."""
        draw = Random(f"reading {self._world.seed}")
        since, loop = unread(self._world, None), asyncio.get_running_loop()
        woke_s = loop.time()
        while True:
            try:
                async for event in self._runtime.events(since):
                    late_s = min(lateness_s(self._world, event.at), loop.time() - woke_s)
                    self._expect(
                        "events come as they are committed", holds=late_s < _LATE_S, what=f"{late_s:.3f} s late"
                    )
                    missed = unread(self._world, event.offset)
                    holds = not missed
                    self._expect("no event is skipped", holds=holds, what=f"{event.offset} came before {missed}")
                    self._world.happen(f"event {event.offset} was read")  # a second time would be a violation
                    since = event.offset
                    if not self._closing and draw.random() < 0.1:  # noqa: PLR2004 - now and then
                        await asyncio.sleep(draw.choice((0.0, 0.01, 2.0)))
                        woke_s = loop.time()
            except StorageFailed:
                await asyncio.sleep(0.1)

    async def catch_up(self) -> None:
        """Wait until the reader has read everything: it is told of each commit."""
        self._closing = True
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _CATCH_UP_S
        while missed := unread(self._world, 1 << 62):
            if loop.time() > until_s:
                self._expect("events come as they are committed", holds=False, what=f"{missed} was not read")
            await asyncio.sleep(1.0)

    def _expect(self, rule: str, *, holds: bool, what: str) -> None:
        if not holds:
            self._world.report(Violated(rule, what))
