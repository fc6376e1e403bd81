"""Supervisors: start children in order, bring back what falls, give up upwards, stop in reverse.

A supervisor has no task of its own: it acts when it is told something, at once where a child starts and stops at once,
else in a task that ends with what it does. So a child that idles costs its place and nothing else.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import islice

from turnkeeper.actors.node import logger
from turnkeeper.kernel.errors import InvalidName, ShuttingDown, TooManyRestarts, TurnkeeperError, UnknownChild
from turnkeeper.kernel.supervision.child import ChildSpec, Exit, Exited
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Exceeded, Intensity, Window
from turnkeeper.kernel.supervision.noted import ChildEventKind, Note, note_of_exit
from turnkeeper.kernel.supervision.slot import SlotState
from turnkeeper.kernel.supervision.strategy import Strategy
from turnkeeper.kernel.supervision.view import ChildView
from turnkeeper.supervisors.alone import alone, too_many
from turnkeeper.supervisors.carried import carried_out
from turnkeeper.supervisors.chronicle import Chronicle, Unrecorded
from turnkeeper.supervisors.place import Place, at_once_or_later, crash_of, not_started
from turnkeeper.supervisors.rounds import Rounds

__all__ = ["Supervisor"]


class Supervisor:
    """Keeps its children running; a child itself of whoever started it.

    Promises: children start in order, and stop in reverse, each within its `shutdown_s`. However many ask, and however
    ends and starts cross, one incarnation of a child runs. An end counts for the incarnation that it is of. More
    restarts than `intensity` bears are never made.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: Intensity | None = None,
        exceeded: Exceeded = Exceeded.ESCALATE,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Describe a supervisor; nothing runs before it is started.

        Args:
            children: in the order of their starts.
            strategy: what the end of one means for the others.
            intensity: how many restarts are borne: of all children together where it escalates, of each child by
                itself where it puts the child away.
            exceeded: what becomes of it then; only a child that no sibling stands on can be put away by itself.
            chance: jitter of pauses, in [0, 1).

        Raises:
            InvalidName: two children have one name, or a name is empty or holds a slash.
            ValueError: a child is to be put away under another strategy than one_for_one.
        """
        if exceeded is Exceeded.QUARANTINE and strategy is not Strategy.ONE_FOR_ONE:
            msg = f"exceeded=QUARANTINE puts one child away; under {strategy} its siblings stand on it: escalate"
            raise ValueError(msg)
        self.strategy = strategy
        self.intensity = intensity or Intensity()
        self.exceeded = exceeded
        self.path = ""
        self._chance = chance
        self._chronicle: Chronicle = Unrecorded()
        self._window = Window()
        self._places: dict[str, Place] = {}
        self._told: Exited | None = None
        self._open = False
        self._fresh = True
        self._early: list[tuple[Place, Exit]] = []
        self._resumed: list[Place] = []
        self._rounds = Rounds(strategy, self._places, partial(self._retry, in_round=True))
        self._giving_up: set[asyncio.Task[None]] = set()
        self._leaving: set[Place] = set()
        for spec in children:
            self._take(spec)

    def adopt(self, path: str, chronicle: Chronicle) -> None:
        """Say where in a tree it stands, and who keeps what happens to its children and what is wanted of them."""
        self.path, self._chronicle = path, chronicle
        for place in self._places.values():
            self._adopted(place)

    # ------------------------------------------------------------ as a child

    def start(self, exited: Exited) -> Awaitable[None] | None:
        """Start every child that is wanted, in order; the first that cannot be started stops the others again.

        Where children are put away by themselves that holds for the first start alone: later, one that cannot be
        started has fallen, and its neighbours go on.

        Raises:
            ChildNotStarted: now, or by what is returned; what that child raised is its cause.
        """
        self._told, self._open = exited, False
        self._fresh = self._fresh or self.exceeded is Exceeded.ESCALATE
        self._window.clear()
        return at_once_or_later(self._starting_all())

    def forget(self) -> None:
        """Take the next start for the first."""
        self._fresh = True

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:  # noqa: ARG002 - each child has its own
        """Stop every child, last first, each within its own `shutdown_s`."""
        self._open = False
        self._early.clear()
        self._resumed.clear()
        self._rounds.cancel()
        return self._rounds.behind(at_once_or_later(self._stopping_all()))

    def running(self) -> AbstractAsyncContextManager["Supervisor"]:
        """Run it as a root of its own: what it gives up on is logged, and raised when the block is left.

        Raises:
            TooManyRestarts: it has given up.
        """
        return alone(self)

    async def over(self) -> None:
        """Wait until nobody is being put away, or given up."""
        while self._giving_up:
            await asyncio.wait(self._giving_up)

    def _starting_all(self) -> "Iterator[tuple[Place, asyncio.Future[None]]]":
        self._early.clear()
        failed: Exception | None = None
        for place in list(self._places.values()):
            if place.desired is not Desired.RUNNING:
                continue
            try:
                starting = place.begin()
            except Exception as error:  # noqa: BLE001 - raised below, once the others are down again
                failed = not_started(self._path_of(place), crash_of(error), error)
                self.fell(place, crash_of(error))
            else:
                if starting is not None:
                    yield place, starting
                if place.slot.state is SlotState.IDLE and place.ended is not None and starting is not None:
                    raised = None if starting.cancelled() else starting.exception()
                    failed = not_started(self._path_of(place), place.ended, raised)
            if failed is not None and self._fresh:
                yield from self._stopping_all()
                raise failed
            failed = None  # it was up before: it has fallen, as it would have beside the others
        self._open, self._fresh = True, False
        early, self._early = self._early, []
        for place, exit_ in early:
            self._decide(place, exit_)
        for place in self._resumed:
            self._want(place)
        self._resumed.clear()

    def _stopping_all(self) -> "Iterator[tuple[Place, asyncio.Future[None]]]":
        for place in reversed(list(self._places.values())):
            if (stopping := place.end()) is not None:
                yield place, stopping
            place.settle(ShuttingDown())

    # ------------------------------------------------------------ what it is asked

    async def ensure_running(self, name: str) -> None:
        """Return once the child runs; however many ask at once, it is started once, and no pause is cut short.

        Raises:
            UnknownChild, ShuttingDown: there is no such child, or no supervisor any more.
            ChildQuarantined, ChildNotWanted: it is put away, or was told to rest.
            ChildNotStarted: it has ended, and is not brought back.
        """
        place = self._place(name)
        await self._rounds.over()
        if place.desired is not Desired.RUNNING:
            raise place.unwanted(self._path_of(place))
        if place.slot.state is SlotState.RUNNING:
            return
        if not self._open:
            raise ShuttingDown
        waiter = place.wait()
        self._want(place)
        await waiter

    async def tell(self, name: str, verb: Verb, reason: str = "", *, by: str = "") -> Desired:
        """Say what is wanted of a child, recorded; return what is wanted of it now.

        Stopping and quarantine return once it is down, within its `shutdown_s`. Resuming and releasing start it, with a
        fresh window, and do not wait for that (`ensure_running` does). Pausing takes back a restart that waits.

        Raises:
            UnknownChild: there is no such child.
            VerbRefused: the verb means nothing to what is wanted now.
            StorageFailed: it could not be recorded; nothing has changed.
        """
        return await carried_out(self._tell(name, verb, Note(reason, by=by)))

    async def _tell(self, name: str, verb: Verb, note: Note) -> Desired:
        await self._chronicle.say(self._path_of(self._place(name)), verb, note)
        return await self.carry_out(name, note.reason)

    async def carry_out(self, name: str, why: str = "") -> Desired:
        """See to it that what is wanted of a child is so; return what that is.

        Raises:
            UnknownChild: there is no such child.
        """
        place = self._place(name)
        if place.desired is Desired.RUNNING:
            if place.window is not None:
                place.window.clear()
            await self._rounds.over()
            self._want(place)
            return place.desired
        if place.desired is not Desired.PAUSED:
            stopping = place.end()
            place.settle(place.unwanted(self._path_of(place), why))
            await place.over(stopping)
            return place.desired
        place.disarm()
        if place.slot.state is SlotState.IDLE:
            place.settle(place.unwanted(self._path_of(place)))
        return place.desired

    def add(self, spec: ChildSpec) -> None:
        """Add a child, and start it; one that cannot be started is brought back as one that has crashed is.

        Raises:
            InvalidName: the name is taken, is empty, or holds a slash.
        """
        place = self._take(spec)
        self._adopted(place)
        if place.desired is Desired.RUNNING:
            self._want(place)

    async def remove(self, name: str) -> None:
        """Stop a child and forget it.

        Raises:
            UnknownChild: there is no such child.
        """
        place = self._place(name)
        place.settle(UnknownChild(name, "others"))
        self._leaving.add(place)
        await place.over(place.end())
        place.retire()
        self._leaving.discard(place)
        self._places.pop(name, None)

    def child(self, name: str) -> ChildSpec:
        """Return a child's spec.

        Raises:
            UnknownChild: there is none of this name.
        """
        return self._place(name).spec

    def view(self, name: str = "", *, children_max: int = 1_000) -> ChildView:
        """Return what it and all under it are doing now; of very many children the first `children_max`."""
        now, places = asyncio.get_running_loop().time(), islice(self._places.values(), children_max)
        return ChildView(
            name=name,
            kind="supervisor",
            state=SlotState.RUNNING if self._open else SlotState.IDLE,
            restarts=self._window.count(self.intensity, now),
            strategy=self.strategy,
            children=[place.view(self.intensity, now, children_max) for place in places],
            left_out=max(0, len(self._places) - children_max),
        )

    # ------------------------------------------------------------ what its places tell it

    def up(self, place: Place) -> None:
        """Hear that an incarnation is up."""
        self._note(place, ChildEventKind.STARTED)

    def down(self, place: Place) -> None:
        """Hear that an incarnation was stopped."""
        self._note(place, ChildEventKind.ENDED)
        if self._open and place.slot.wanted and place.desired is Desired.RUNNING:
            self._retry(place)

    def wanted(self, place: Place) -> Desired:
        """Return what is wanted of a child: its one truth is the chronicle's."""
        return Desired.STOPPED if place in self._leaving else self._chronicle.desired(self._path_of(place))

    def fell(self, place: Place, exit_: Exit) -> None:
        """Hear that an incarnation has ended by itself."""
        self._note(place, *note_of_exit(exit_))
        if self._open:
            self._decide(place, exit_)
        else:
            self._early.append((place, exit_))

    def _decide(self, place: Place, exit_: Exit) -> None:
        """Bring a child back, or not."""
        if place.desired is not Desired.RUNNING or not place.spec.restart.wanted(normal=exit_.normal):
            place.settle(place.unwanted(self._path_of(place), exit_.reason))
            return
        window = self._window
        if self.exceeded is Exceeded.QUARANTINE:
            window = place.window = place.window or Window()
        loop = asyncio.get_running_loop()
        number = window.restart(self.intensity, loop.time())
        if number is None:
            self._too_often(place)
            return
        pause_s = self.intensity.pause_s(number, self._chance())
        self._note(place, ChildEventKind.RESTARTED, Note(restart=number, pause_s=pause_s))
        if self.strategy is not Strategy.ONE_FOR_ONE:
            self._rounds.add(place, loop.time() + pause_s)
        elif pause_s:
            place.disarm()
            place.timer = loop.call_later(pause_s, self._retry, place)
        else:
            self._retry(place)

    def _want(self, place: Place) -> None:
        """Start a child that somebody wants to run now, unless it is up, or its restart waits for its pause."""
        if not self._open:
            self._resumed.append(place)  # the supervisor is on its way up, or down
        elif place.desired is Desired.RUNNING and place.timer is None and place.slot.state is not SlotState.RUNNING:
            self._retry(place)

    def _retry(self, place: Place, *, in_round: bool = False) -> None:
        place.timer = None
        try:
            place.begin()
        except Exception as error:  # noqa: BLE001 - a child that cannot be started has fallen, whatever it raised
            exit_ = crash_of(error)
            self._note(place, *note_of_exit(exit_))
            if in_round:
                self._decide(place, exit_)
            else:
                asyncio.get_running_loop().call_soon(self._decide_again, place, exit_)  # not deeper into the stack

    def _decide_again(self, place: Place, exit_: Exit) -> None:
        if self._open and place.slot.state is SlotState.IDLE:
            self._decide(place, exit_)

    def _too_often(self, place: Place) -> None:
        path = self._path_of(place)
        error = too_many(self, place.spec.name)
        logger().error("child.fell_too_often", path=path, exceeded=self.exceeded.value, error=str(error))
        if self.exceeded is Exceeded.QUARANTINE:
            self._chronicle.hold(path, Desired.QUARANTINED)
            place.settle(place.unwanted(path, str(error)))
            giving_up = asyncio.get_running_loop().create_task(self._put_away(place, str(error)))
        else:
            self._open = False
            self._rounds.cancel()
            self._note(place, ChildEventKind.ESCALATED, Note(str(error)))
            giving_up = asyncio.get_running_loop().create_task(self._give_up(place, error))
        self._giving_up.add(giving_up)
        giving_up.add_done_callback(self._giving_up.discard)

    async def _put_away(self, place: Place, why: str) -> None:
        if place.desired is not Desired.QUARANTINED:
            return  # somebody has said something since: that counts
        try:
            await self._tell(place.spec.name, Verb.QUARANTINE, Note(why, by=self.path))
        except TurnkeeperError as error:
            logger().error("child.quarantine_not_kept", path=self._path_of(place), error=str(error))

    async def _give_up(self, place: Place, error: TooManyRestarts) -> None:
        place.settle(error)
        if (stopping := self.stop(0.0)) is not None:
            await stopping
        if self._told is not None:
            self._told(Exit("gave_up", normal=False, error=place.spec.name))

    # ------------------------------------------------------------ places

    def _take(self, spec: ChildSpec) -> Place:
        if not spec.name or "/" in spec.name or spec.name in self._places:
            why = "is taken" if spec.name in self._places else "must not be empty, nor hold a slash"
            raise InvalidName(f"the child's name {spec.name!r}", why)
        place = self._places[spec.name] = Place(spec, self)
        return place

    def _adopted(self, place: Place) -> None:
        if isinstance(place.spec.child, Supervisor):
            place.spec.child.adopt(self._path_of(place), self._chronicle)

    def _place(self, name: str) -> Place:
        if name not in self._places:
            known = [self._path_of(place) for place in islice(self._places.values(), 20)]
            raise UnknownChild(name, ", ".join(known) or "none")
        return self._places[name]

    def _note(self, place: Place, kind: ChildEventKind, note: Note | None = None) -> None:
        self._chronicle.noted(self._path_of(place), kind, place.slot.incarnation, note or Note())

    def _path_of(self, place: Place) -> str:
        return f"{self.path}/{place.spec.name}" if self.path else place.spec.name
