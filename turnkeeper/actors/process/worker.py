"""A worker: one process of an agent as its supervisor knows it, and what can be seen of it from outside."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import msgspec

from turnkeeper.actors.process.life import Command, Life
from turnkeeper.actors.process.spawned import Guard
from turnkeeper.kernel.supervision.child import Exit, Exited
from turnkeeper.kernel.supervision.view import Look

__all__ = ["Worker", "WorkerStatistics"]


class WorkerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as it stands; whether it is wanted, and how often it was started again, `Runtime.tree` says.

    Args:
        name: its name in its path, from "1".
        incarnation: how often it has been started.
        pid: its process id, None while there is no process.
        started: its start time, in clock ticks since the machine's boot: with the pid, who it is.
        health: alive, suspect or dead; empty while there is no process.
        busy: whether it runs a turn.
        refused: lines of this incarnation that were not understood.
        last_exit: how the last incarnation that has ended did so, None where none has.
    """

    name: str
    incarnation: int
    pid: int | None
    started: int | None
    health: str
    busy: bool
    refused: int
    last_exit: Exit | None


class Worker:
    """A worker process as a `Child`: what is started and stopped. It outlives its incarnations."""

    __slots__ = ("_command", "_guard", "_log", "_risen", "ended", "incarnation", "life", "name")

    def __init__(self, name: str, command: Command, guard: Guard, risen: "Callable[[Worker], None]", log: Any) -> None:
        """Describe it; nothing runs before `start`. `risen` is told when an incarnation takes turns."""
        self.name = name
        self._command = command
        self._guard = guard
        self._risen = risen
        self._log = log
        self.incarnation = 0
        self.life: Life | None = None
        self.ended: Exit | None = None

    @property
    def up(self) -> bool:
        """Say whether it takes turns."""
        return self.life is not None and self.life.up

    def start(self, exited: Exited) -> Awaitable[None]:
        """Start an incarnation; what is returned is done when it takes turns.

        One that ends before that tells `exited` how, with its code or signal, before what is returned fails.

        Raises:
            OSError, ValueError: from the awaitable: it cannot be started.
            ProcessDied: from the awaitable: it ended, or was too slow, before it was ready.
        """
        self.incarnation += 1
        return self._starting(exited)  # in a task, so that an end is known everywhere before the next start takes time

    async def _starting(self, exited: Exited) -> None:
        try:
            life = Context().run(self._begun, exited)  # a worker outlives the turn that it is started for
        except (OSError, ValueError) as error:  # such as a null byte in the command
            self.ended = Exit("crashed", normal=False, error=f"{type(error).__name__}: {error}")
            raise
        try:
            await asyncio.shield(life.ready)
        except asyncio.CancelledError:
            life.end_now()
            raise
        self._risen(self)

    def _begun(self, exited: Exited) -> Life:
        loop = asyncio.get_running_loop()
        life = self.life = Life(self._command, self.incarnation, self._guard, self._log)

        def ended(over: "asyncio.Future[Exit]") -> None:
            self.ended = over.result()
            if not life.stopping:
                exited(self.ended)
            loop.call_soon(self._guard.rest)  # behind the next start, if there is one now

        life.over.add_done_callback(ended)
        return life

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:
        """Bring it down within `shutdown_s`, by force then; None where it is down."""
        life = self.life
        return None if life is None or life.over.done() else life.stop(shutdown_s)

    def look(self) -> Look:
        """Return what its process says of itself: nothing while there is none."""
        life = self.life
        if life is None or life.identity is None:
            return Look()
        now, pulse = asyncio.get_running_loop().time(), life.pulse
        return Look(
            running=int(life.listener is not None),
            beat_age_s=now - pulse.beat_at,
            progress_age_s=now - pulse.progress_at,
            health=pulse.health.value,
            pid=life.identity.pid,
        )

    def statistics(self) -> WorkerStatistics:
        """Return how it stands."""
        life = self.life
        identity = None if life is None else life.identity
        return WorkerStatistics(
            name=self.name,
            incarnation=self.incarnation,
            pid=None if identity is None else identity.pid,
            started=None if identity is None else identity.started,
            health="" if identity is None or life is None else life.pulse.health.value,
            busy=life is not None and life.listener is not None,
            refused=0 if life is None else life.refused,
            last_exit=self.ended,
        )
