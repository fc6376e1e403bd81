"""Participants: programs outside the runtime that join, beat and leave; they cannot be restarted, only reported."""

import asyncio
import logging
import math
from collections import OrderedDict
from itertools import chain, islice
from typing import Final

from turnkeeper.actors.node import logger
from turnkeeper.kernel.errors import ShuttingDown, TooManyParticipants
from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.kernel.supervision.liveness import Limits
from turnkeeper.kernel.supervision.noted import ChildEventKind, Note
from turnkeeper.kernel.supervision.participant import Participant, Said, Standing, Word, heard
from turnkeeper.kernel.supervision.slot import SlotState
from turnkeeper.kernel.supervision.view import ChildView, Look
from turnkeeper.supervisors.chronicle import Chronicle, Unrecorded

__all__ = ["PARTICIPANTS", "Participants"]

PARTICIPANTS: Final = "participants"
"""The path of a participant is this, a slash and its name."""

_PARTICIPANTS_MAX: Final = 10_000
"""Each costs a kilobyte or two, and a beat now and then."""

_LOOKS_MAX: Final = 100
"""Silences dealt with in one go: after a standstill all are due at once, and each is logged and noted."""

_BAD: Final = frozenset({ChildEventKind.SUSPECTED, ChildEventKind.DIED})


class Participants:
    """Knows who takes part from outside; a child of the runtime's root.

    Promises: one connection at most holds a name, the newest. A participant that is silent is suspect first, for the
    whole grace, and gone then; a beat brings a suspect back, and who is gone must join again. No word of a connection
    that has lost its name changes anything. Whatever happens is noted and logged.

    It has no task, and one timer. Each of its queues is in the order in which its participants are due, because all of
    one queue wait equally long: a beat costs a move to the end of one, however many there are.
    """

    __slots__ = (
        "_alive",
        "_chronicle",
        "_gone",
        "_incarnation",
        "_log",
        "_loop",
        "_participants_max",
        "_suspects",
        "_timer",
        "limits",
        "path",
    )

    def __init__(self, limits: Limits, *, participants_max: int = _PARTICIPANTS_MAX) -> None:
        """Describe them; nobody can join before it is started.

        Args:
            limits: how long silence is borne. Progress is shown and not judged.
            participants_max: how many may be there at once; of those who are gone no more are remembered either.

        Raises:
            ValueError: a limit is not positive and finite.
        """
        bounds = {"silent_s": limits.silent_s, "grace_s": limits.grace_s, "participants_max": participants_max}
        for name, value in bounds.items():
            if not 0 < value < math.inf:
                msg = f"{name} must be positive and finite, not {value}"
                raise ValueError(msg)
        self.limits = limits
        self.path = PARTICIPANTS
        self._participants_max = participants_max
        self._chronicle: Chronicle = Unrecorded()
        self._log = logger()
        self._incarnation = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._suspects: OrderedDict[str, Participant] = OrderedDict()
        self._alive: OrderedDict[str, Participant] = OrderedDict()
        self._gone: OrderedDict[str, Participant] = OrderedDict()

    def adopt(self, path: str, chronicle: Chronicle) -> None:
        """Say where in a tree it stands, and who keeps what happens."""
        self.path, self._chronicle = path, chronicle

    # ------------------------------------------------------------ as a child

    def start(self, exited: Exited) -> None:  # noqa: ARG002 - it never ends by itself
        """Let participants join."""
        self._loop = asyncio.get_running_loop()

    def stop(self, shutdown_s: float) -> None:  # noqa: ARG002 - it is down at once
        """Forget all of them: they are told so when they beat, and join again. One note says it of all."""
        if self._alive or self._suspects:
            here = len(self._alive) + len(self._suspects)
            self._chronicle.noted(self.path, ChildEventKind.ENDED, 0, Note(f"with {here} participants"))
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for queue in self._queues():
            queue.clear()

    # ------------------------------------------------------------ what is said to it

    def join(self, name: str, connection_id: str, *, role: str = "") -> Participant:
        """Take part, and return the participant with its incarnation.

        Joining again by the same connection is a beat, and its role stays. A name that another connection holds is
        taken over from it.

        Args:
            name: who takes part; not empty, 512 characters at most, no slash.
            connection_id: a fresh one for each run of the program; 512 characters at most.
            role: what it is, for people who look.

        Raises:
            StaleConnection: the name has been taken from this connection.
            TooManyParticipants: as many are here as may be.
            InvalidName: something of it cannot be a name.
            ShuttingDown: it is not running.
        """
        return self._hear(Said(word=Word.JOIN, name=name, connection_id=connection_id, role=role))

    def beat(self, name: str, connection_id: str, *, progress: bool = False) -> Participant:
        """Say that a participant is alive, and, by `progress`, that it gets on.

        Raises:
            StaleConnection: another connection holds the name.
            NotJoined: it never joined, left, or is gone: it must join again.
            InvalidName, ShuttingDown: as for `join`.
        """
        return self._hear(Said(word=Word.BEAT, name=name, connection_id=connection_id, progress=progress))

    def leave(self, name: str, connection_id: str) -> None:
        """Take part no more. Saying so again, or after having been silent for too long, changes nothing.

        Raises:
            StaleConnection: another connection holds the name.
            NotJoined: this connection was not the last to hold it.
            InvalidName, ShuttingDown: as for `join`.
        """
        self._hear(Said(word=Word.LEAVE, name=name, connection_id=connection_id))

    def view(self, name: str = PARTICIPANTS, *, children_max: int = 1_000) -> ChildView:
        """Return who is here, and who was within the hour: suspects first, the gone last; the first `children_max`."""
        now = self._loop.time() if self._loop is not None else 0.0
        known = chain(self._suspects.values(), self._alive.values(), reversed(self._gone.values()))
        return ChildView(
            name=name,
            kind="participants",
            state=SlotState.IDLE if self._loop is None else SlotState.RUNNING,
            children=[_shown(participant, now) for participant in islice(known, children_max)],
        )

    def _hear(self, said: Said) -> Participant:
        if self._loop is None:
            raise ShuttingDown
        before = next((queue[said.name] for queue in self._queues() if said.name in queue), None)
        after, event = heard(said, before, self.limits, self._loop.time(), self._incarnation + 1)
        if event is ChildEventKind.JOINED and len(self._alive) + len(self._suspects) >= self._participants_max:
            raise TooManyParticipants(self._participants_max)
        self._incarnation = max(self._incarnation, after.incarnation)
        if after is not before:
            self._put(before, after)
        if event is not None:
            self._arm(self._loop)
            self._happened(after, event, f"connection {after.connection_id}")
        return after

    # ------------------------------------------------------------ silence

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the timer ring when the first of all is due; ringing too early, after a beat, is no harm."""
        due_at = min((next(iter(queue.values())).due_at for queue in self._queues() if queue), default=math.inf)
        if self._timer is not None and self._timer.when() > due_at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due_at < math.inf:
            self._timer = loop.call_at(due_at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deal with those whose silence is due, or whose memory is."""
        self._timer = None
        try:
            for _ in range(_LOOKS_MAX):
                first = min(
                    (next(iter(queue.values())) for queue in self._queues() if queue),
                    key=lambda participant: participant.due_at,
                    default=None,
                )
                if first is None or first.due_at > loop.time():
                    break
                self._look_at(first, loop.time())
        finally:
            self._arm(loop)

    def _look_at(self, participant: Participant, now: float) -> None:
        if participant.standing is Standing.FREE:
            del self._gone[participant.name]
            return
        after, event = participant.looked_at(self.limits, now)
        self._put(participant, after)
        self._happened(after, event, f"silent for {now - after.pulse.beat_at:.3g} s")

    # ------------------------------------------------------------ what has happened

    def _happened(self, participant: Participant, event: ChildEventKind, why: str) -> None:
        """Note it, and log it. All that happens passes here: who must hear of it, of the gone say, is told here."""
        path, incarnation = f"{self.path}/{participant.name}", participant.incarnation
        level = logging.WARNING if event in _BAD else logging.INFO
        self._log.log(level, f"participant.{event}", path=path, incarnation=incarnation, role=participant.role, why=why)
        self._chronicle.noted(path, event, incarnation, Note(why))

    def _queues(self) -> "tuple[OrderedDict[str, Participant], ...]":
        return self._alive, self._suspects, self._gone

    def _queue(self, participant: Participant) -> "OrderedDict[str, Participant]":
        if participant.standing is Standing.FREE:
            return self._gone
        return self._suspects if participant.suspect else self._alive

    def _put(self, before: Participant | None, after: Participant) -> None:
        """Put a participant to the end of its queue; of those who are gone the oldest make room."""
        if before is not None:
            del self._queue(before)[before.name]
        self._queue(after)[after.name] = after
        if len(self._gone) > self._participants_max:
            self._gone.popitem(last=False)


def _shown(participant: Participant, now: float) -> ChildView:
    pulse = participant.pulse
    here = participant.standing is Standing.HELD
    return ChildView(
        name=participant.name,
        kind="participant",
        state=SlotState.RUNNING if here else SlotState.IDLE,
        incarnation=participant.incarnation,
        why="" if here else "left" if participant.left else "silent",
        look=Look(
            beat_age_s=now - pulse.beat_at,
            progress_age_s=now - pulse.progress_at,
            health=pulse.health if here else None,
        ),
    )
