"""Waiting: triage hands a customer to billing, billing asks pricing for two prices and a person for a yes.

Each session knows what it must come to, whatever the schedule, the kills and the disk: the person's word is drawn once,
and so is when it comes, whether it comes twice, and whether somebody gives the whole up before.
"""

import asyncio
from random import Random
from typing import Any, Final

import msgspec

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.receipt import Result
from turnkeeper.actors.tool import tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import ApprovalDenied, StorageFailed, WaitTokenInvalid
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import Effect
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.scenarios.patience import patiently
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life", "small"]

_SETTINGS: Final = Settings(
    retries_max=10_000,
    recoveries_max=10_000,
    shutdown_s=2.0,
    storm_ends_max=0,
    idle_agents_max=2,
    suspend_s=0.02,
    approval_s=600.0,
)
_SESSIONS: Final = 5
_SIGNAL_S: Final = 3_600.0
_ASKED_S: Final = 1_000.0
_CANCELLED: Final = "Cancelled"


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """What happens in one session, and when, s after the person is asked; `late`: only after the deadline.

    `sums` come by signals, before the turn or while it waits. `cancel_s` is when somebody gives it up; None for never.
    """

    sums: tuple[int, int]
    approves: bool
    after_s: float
    twice: bool
    late: bool
    early: bool
    cancel_s: float | None

    @property
    def comes_to(self) -> Any:
        """Return what the customer is told where nobody gives it up."""
        total = sum(self.sums)
        if self.late:
            return {"total": total, "said": "nobody answered in time"}
        return {"total": total, "said": "booked" if self.approves else "too much"}


def _drawn(draw: Random) -> _Case:
    rarely, often = 0.2, 0.5
    return _Case(
        sums=(draw.randrange(100), draw.randrange(100)),
        approves=draw.random() < often,
        after_s=draw.choice((0.0, 0.01, 0.03, 1.0, 5.0)),
        twice=draw.random() < often,
        late=draw.random() < rarely,
        early=draw.random() < often,
        cancel_s=draw.choice((0.0, 0.01, 0.05, 2.0)) if draw.random() < rarely else None,
    )


async def life(world: World) -> None:
    """Let several customers be served at once."""
    await _live(world, _SESSIONS)


async def small(world: World) -> None:
    """Let one customer be served, whose person approves: the three agents of the issue."""
    await _live(
        world, 1, _Case(sums=(3, 4), approves=True, after_s=0.05, twice=True, late=False, early=False, cancel_s=None)
    )


async def _live(world: World, sessions: int, case: _Case | None = None) -> None:
    draw = Random(f"waiting {world.seed}")
    cases = [case or _drawn(draw) for _ in range(sessions)]
    desk = _Desk(world)
    async with world.runtime(desk.agents(), settings=_SETTINGS) as runtime, asyncio.TaskGroup() as group:
        for number, one in enumerate(cases):
            group.create_task(desk.serve(runtime, f"session-{number}", one))


class _Desk:
    """The agents, and the people around them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def agents(self) -> list[Agent]:
        """Return the agents."""
        world = self._world

        @tool(effect=Effect.IDEMPOTENT)
        async def book(session: str) -> str:
            await asyncio.sleep(0.01)
            if not world.happened(f"book {session}"):
                world.happen(f"book {session}")
            return "booked"

        @agent("triage")
        async def triage(turn: Turn) -> None:
            sums = await turn.gather(*(turn.signal("sum", timeout_s=_SIGNAL_S) for _ in range(2)))
            await turn.step("think", asyncio.sleep, 0.01)
            await turn.handoff("billing", reason="money", summary=f"{sums[0]} {sums[1]}", goal="a booking")

        @agent("billing")
        async def billing(turn: Turn) -> Any:
            sums = [int(one) for one in turn.input["summary"].split()]
            first, second, _ = await turn.gather(
                turn.ask("pricing", sums[0]), turn.ask("pricing", sums[1]), turn.sleep(0.5)
            )
            total = first + second
            try:
                await turn.approval("booking", {"total": total}, who=["ann"], timeout_s=_ASKED_S)
            except ApprovalDenied as denied:
                return {"total": total, "said": denied.reason}
            return {"total": total, "said": await turn.call(book, turn.session_id)}

        @agent("pricing")
        async def pricing(turn: Turn) -> int:
            await turn.sleep(0.1)
            price: int = await turn.step("price", lambda: turn.input)
            return price

        return [triage, billing, pricing]

    # ------------------------------------------------------------ the people around them

    async def serve(self, runtime: Runtime, session: str, case: _Case) -> None:
        """Be a customer, and everybody whom their turn waits for."""
        if case.early:
            await self._send(runtime, session, case)
        receipt = await patiently(lambda: runtime.tell(session, "triage", None, key="order"))
        person = asyncio.create_task(self._decide(runtime, session, case))
        try:
            if not case.early:
                await self._send(runtime, session, case)
            if case.cancel_s is not None:
                await asyncio.sleep(case.cancel_s)
                await patiently(lambda: runtime.cancel(receipt.turn_id, by="customer", reason="too slow"))
            answer = await patiently(lambda: runtime.ask(session, "triage", None, key="order"))
        finally:
            person.cancel()
            await asyncio.gather(person, return_exceptions=True)
        if not person.cancelled():
            person.result()
        self._check(session, case, answer)

    async def _send(self, runtime: Runtime, session: str, case: _Case) -> None:
        """Send both sums, the second one twice."""
        for place in (0, 1, 1):
            sent = case.sums[place], f"sum {place}"
            await patiently(lambda sent=sent: runtime.signal(session, "triage", "sum", sent[0], key=sent[1]))  # type: ignore[misc]

    async def _decide(self, runtime: Runtime, session: str, case: _Case) -> None:
        """Answer what billing asks, at the drawn time; once more after that, which nobody may hear."""
        while not (token := await self._token(runtime, session)):  # noqa: ASYNC110 - as a person looks
            await asyncio.sleep(0.05)
        await asyncio.sleep(_ASKED_S if case.late else case.after_s)
        for _ in range(1 + case.twice):
            told = False
            while not told:
                try:
                    await self._say(runtime, token, case)
                except WaitTokenInvalid:
                    told = True
                except StorageFailed:
                    await asyncio.sleep(0.3)
                else:
                    told = True
                    self._applied(token, case)

    async def _say(self, runtime: Runtime, token: str, case: _Case) -> None:
        if case.approves:
            await runtime.approve(token, by="ann", reason="fine")
        else:
            await runtime.deny(token, by="ann", reason="too much")

    def _applied(self, token: str, case: _Case) -> None:
        """Check that an answer was taken once, and in time."""
        if self._world.happened(f"answer {token}") or case.late:
            self._world.report(Violated("an answer is applied once, in time", token))
        else:
            self._world.happen(f"answer {token}")

    async def _token(self, runtime: Runtime, session: str) -> str:
        try:
            found = [one.token for one in await runtime.approvals(session_id=session)]
        except StorageFailed:
            found = []
        return found[0] if found else ""

    def _check(self, session: str, case: _Case, answer: Result) -> None:
        """Compare what the customer was told with what the session had to come to."""
        said = answer.value if answer.failure is None else answer.failure.type
        holds = said == case.comes_to or (case.cancel_s is not None and said == _CANCELLED)
        if not holds:
            self._world.report(Violated("the known answer", f"{session}: {said!r}, not {case.comes_to!r}"))
        booked = self._world.happened(f"book {session}")
        if booked and (case.late or not case.approves):
            self._world.report(Violated("the known answer", f"{session} was booked, and nobody had approved"))
