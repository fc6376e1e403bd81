"""A life: one incarnation of a worker, from its start to the end of everything that it began."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from turnkeeper.actors.process.limits import ProcessLimits
from turnkeeper.actors.process.pipes import Inflow, Outflow
from turnkeeper.actors.process.spawned import Guard, Identity, Spawned
from turnkeeper.kernel.envelope import (
    Bye,
    FromWorker,
    Heartbeat,
    Hello,
    Lines,
    Ping,
    Pong,
    Problem,
    Ready,
    Refusal,
    TooLong,
    ToWorker,
    encoded,
    problem,
    understood,
)
from turnkeeper.kernel.errors import ProcessDied, StaleIncarnation
from turnkeeper.kernel.supervision.child import Exit
from turnkeeper.kernel.supervision.liveness import Health, Pulse

__all__ = ["Command", "Life", "Listener"]

_ASKED_TIMES = 3
"""How often a silent worker is asked before it is suspect."""

_MUTE_S = 0.5
"""How long a process may go on without its stdout: longer than from the end of that to the end of itself."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What is started for an agent, and what it may take."""

    agent_id: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None
    limits: ProcessLimits


class Listener(Protocol):
    """Whoever has the worker's attention: the turn that it runs."""

    @property
    def unwanted(self) -> bool:
        """Say whether it was told to end, and nobody waits for what comes of it."""
        ...

    def heard(self, message: FromWorker) -> Problem | None:
        """Take a message; return what is wrong with it."""
        ...

    def progressed(self) -> None:
        """Learn that the worker says it gets on."""
        ...

    def died(self, error: ProcessDied) -> None:
        """Learn that nothing will come any more."""
        ...


class Life:
    """One incarnation: its process, its pipes, its pulse.

    `ready` is done once it has said so, and fails with `ProcessDied` where it dies before. `over` is done when it has
    ended, is reaped, and its group is gone; by then every line that it had written has been taken.
    """

    __slots__ = (
        "_command",
        "_err",
        "_guard",
        "_heard",
        "_in",
        "_incarnation",
        "_limits",
        "_log",
        "_loop",
        "_out",
        "_pinged",
        "_spawned",
        "_stopped_at",
        "_timers",
        "_turns",
        "_why",
        "listener",
        "over",
        "pulse",
        "ready",
        "refused",
        "said",
        "stopping",
    )

    def __init__(self, command: Command, incarnation: int, guard: Guard, log: Any) -> None:
        """Start the process.

        Raises:
            OSError: it cannot be started.
        """
        self._command = command
        self._limits = limits = command.limits
        self._incarnation = incarnation
        self._guard = guard
        self._log = log
        self._loop = loop = asyncio.get_running_loop()
        self._why = ""
        self.stopping = False
        self._stopped_at = 0.0
        self._turns = 0
        self._heard = False
        self._pinged = 0
        self.refused = 0
        self.said = ""
        self.listener: Listener | None = None
        self.ready: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[Exit] = loop.create_future()
        self.pulse = Pulse(incarnation, loop.time(), loop.time())
        env = {**command.env, "TURNKEEPER_AGENT": command.agent_id, "TURNKEEPER_INCARNATION": str(incarnation)}
        spawned = Spawned(command.command, env, command.cwd, self._exited)
        self._spawned: Spawned | None = spawned
        self._out = Outflow(loop, spawned.stdin, self._room, self._shut_stdin)
        taken, per_s = self._taken, limits.lines_per_s_max
        self._in = Inflow(loop, spawned.stdout, Lines(limits.line_bytes_max), taken, self._mute, per_s)
        heard, per_s = self._stderr, limits.stderr_lines_per_s_max
        self._err = Inflow(loop, spawned.stderr, Lines(limits.stderr_line_bytes_max), heard, _nothing, per_s)
        self._timers = {
            "look": loop.call_later(limits.silent_s / _ASKED_TIMES, self._look),
            "start": loop.call_later(limits.start_s, self._start_over),
        }
        try:
            guard.add(spawned.identity.pid)
        except OSError as error:
            log.warning("process.unguarded", agent_id=command.agent_id, pid=spawned.identity.pid, error=str(error))
        self._out.write(b"go\n")  # opens the gate
        self.send(
            Hello(
                incarnation=incarnation,
                agent=command.agent_id,
                line_bytes_max=limits.line_bytes_max,
                silent_s=limits.silent_s,
            )
        )

    @property
    def identity(self) -> Identity | None:
        """Return which process this is; None once it is gone."""
        return None if self._spawned is None else self._spawned.identity

    @property
    def up(self) -> bool:
        """Say whether it takes turns."""
        return self._spawned is not None and not self._why and not self.stopping and self.ready.done()

    @property
    def _busy(self) -> bool:
        """Say whether an end now, even a good one, comes too early: within a turn, or before the first.

        One that ends of its own will after a turn may be given another just then; that one it has never begun.
        """
        begun = self._turns < 2 or self._heard  # noqa: PLR2004 - the first turn and one more
        return (self.listener is not None and begun) or not self._turns

    def send(self, message: ToWorker) -> None:
        """Say something to the worker, now or as it reads.

        Raises:
            TypeError, ValueError, RecursionError: a value in it is nothing that JSON can hold, or is too long.
        """
        line = encoded(message)
        if len(line) > self._limits.line_bytes_max:
            msg = f"{len(line)} bytes of JSON; a line has at most {self._limits.line_bytes_max}"
            raise ValueError(msg)
        self._out.write(line)
        self._room()

    def kill(self, why: str, said: str) -> None:
        """Kill it and everyone in its group; what it had written before is still taken."""
        if self._spawned is not None and not self._why:
            self._why, self.said = why, said
            self._spawned.signal(signal.SIGKILL)

    async def stop(self, shutdown_s: float) -> None:
        """Let it finish its turn, ask it to end, make it end once `shutdown_s` is over; wait until nothing is left.

        Its turn is answered until then. Of a turn that is not wanted any more the end is not waited for.
        """
        if self._spawned is None:
            return
        self.stopping = True
        self._stopped_at = self._loop.time() + shutdown_s
        self._timers["kill"] = self._loop.call_at(self._stopped_at, self.kill, "stopped", "would not stop")
        if self.listener is None or self.listener.unwanted:
            self._dismiss()
        try:
            await asyncio.shield(self.over)
        except asyncio.CancelledError:
            self.end_now()
            raise

    def end_now(self) -> None:
        """Kill and reap it here and now: blocks for the milliseconds that this takes."""
        if self._spawned is not None:
            self.stopping = True
            self.kill("stopped", "stopped")
            self._exited()

    def _dismiss(self) -> None:
        """Ask it to end: it has nothing to do any more. SIGTERM comes at half of the time that is left."""
        self.send(Bye())
        self._out.end()
        left_s = self._stopped_at - self._loop.time()
        self._timers["term"] = self._loop.call_later(left_s / 2, self._terminate)

    def _terminate(self) -> None:
        if self._spawned is not None:
            self._spawned.signal(signal.SIGTERM)

    # ------------------------------------------------------------ what it says

    def _taken(self, line: bytes | TooLong) -> None:
        if self._why == "refused":
            return
        if isinstance(line, TooLong):
            self._refuse(problem(Refusal.TOO_LONG, f"a line has at most {self._limits.line_bytes_max} bytes"))
            return
        message = understood(line)
        if not isinstance(message, Problem):
            try:
                wrong = self._beaten(message)
            except StaleIncarnation as stale:
                wrong = problem(Refusal.STALE, str(stale))
            if wrong is None:
                return
            message = wrong
        self._refuse(message)

    def _beaten(self, message: FromWorker) -> Problem | None:
        """Take a message, and with it a beat."""
        match message:
            case Ready() | Pong() | Heartbeat():
                progress = isinstance(message, Heartbeat) and bool(message.progress)
                self._beat(message.incarnation, progress=progress)
                if progress and self.listener is not None:
                    self.listener.progressed()
                if isinstance(message, Ready) and not self.ready.done():
                    self._timers.pop("start").cancel()
                    self.ready.set_result(None)
                return None
            case _ if self.listener is not None:
                self._beat(self._incarnation, progress=True)
                self._heard = True
                return self.listener.heard(message)
            case _:
                self._beat(self._incarnation)
                return problem(Refusal.OUT_OF_PLACE, "there is no turn under way")

    def _beat(self, incarnation: int, *, progress: bool = False) -> None:
        suspect = self.pulse.health is Health.SUSPECT
        self.pulse = self.pulse.beaten(incarnation, self._loop.time(), progress=progress)
        self._pinged = 0
        if suspect:
            self._log.info("process.alive_again", **self._facts())

    def _refuse(self, wrong: Problem) -> None:
        """Answer a line that is not taken, as long as answers are read; too many of them, and it is killed."""
        self.refused += 1
        if self.refused <= 1 + self._limits.refusals_max // 100:  # the first few are enough for a log
            self._log.warning("process.refused", **self._facts(), code=wrong.code, said=wrong.message)
        if self.refused > self._limits.refusals_max:
            self.kill("refused", f"said {self.refused} lines that nobody understands")
        elif self._out.unread <= self._limits.unread_bytes_max:
            self.send(wrong)

    def _stderr(self, line: bytes | TooLong) -> None:
        if isinstance(line, TooLong):
            if not line.start:
                return  # more of the same line
            line = line.start + b" ..."
        self._log.info("process.stderr", **self._facts(), line=line.decode(errors="replace"))

    def _room(self) -> None:
        """Read no more from a worker that does not read what is said to it, until it does."""
        self._in.hold(self._out.unread > self._limits.unread_bytes_max)

    def _mute(self) -> None:
        """Nothing will come from it any more: it is about to end, or of no use."""
        self._timers["mute"] = self._loop.call_later(_MUTE_S, self.kill, "mute", "closed its stdout")

    # ------------------------------------------------------------ what is thought of it

    def listen(self, listener: Listener | None) -> None:
        """Give the worker's attention to a turn, or to nobody."""
        self.listener = listener
        self._turns += listener is not None
        self._heard = False
        if listener is None and self.stopping and self._spawned is not None:
            self._dismiss()

    def _look(self) -> None:
        limits, now = self._limits, self._loop.time()
        before, self.pulse = self.pulse, self.pulse.looked_at(limits.silence, now)
        if self.pulse.health is Health.DEAD:
            silent_s = now - self.pulse.beat_at
            self._log.warning("process.dead", **self._facts(), silent_s=round(silent_s, 3))
            self.kill("silent", f"silent for {silent_s:.3g} s")
            return
        if self.pulse.health is Health.SUSPECT is not before.health:
            self._log.warning("process.suspect", **self._facts(), silent_s=round(now - self.pulse.beat_at, 3))
        if not self._pinged:
            self._pinged += 1
            self.send(Ping(n=self._incarnation))
        due_at = self.pulse.due_at(limits.silence)
        at = min(now + limits.silent_s / _ASKED_TIMES, max(due_at, now + 0.001))
        self._timers["look"] = self._loop.call_at(at, self._look)

    def _start_over(self) -> None:
        self.kill("unready", f"not ready within {self._limits.start_s:g} s")

    def _facts(self) -> dict[str, Any]:
        pid = None if self._spawned is None else self._spawned.identity.pid
        return {"agent_id": self._command.agent_id, "pid": pid, "incarnation": self._incarnation}

    # ------------------------------------------------------------ its end

    def _shut_stdin(self) -> None:
        """Close stdin alone: the worker reads the end of its input."""
        if self._spawned is not None:
            self._spawned.shut_stdin()

    def _exited(self) -> None:
        """Take its exit, then its last lines: what it did before it died is not in doubt."""
        spawned = self._spawned
        if spawned is None:
            return
        facts = self._facts()
        for timer in self._timers.values():
            timer.cancel()
        code = spawned.reap()
        self._spawned = None  # from here on it has no process id
        self._out.stop()
        self._in.drain()
        self._err.drain()
        for timer in self._timers.values():  # a last line may have set one
            timer.cancel()
        spawned.close()
        self._guard.drop(facts["pid"])
        exited = self._exit_of(code)
        level = self._log.info if exited.normal else self._log.warning
        level("process.exited", **facts, reason=exited.reason, code=exited.code, signal=exited.signal, said=self.said)
        listener, self.listener = self.listener, None
        died = ProcessDied(self._command.agent_id, facts["pid"], exited.error)
        if listener is not None:
            listener.died(died)
        if not self.ready.done():
            self.ready.set_exception(died)
            self.ready.exception()  # whoever waits sees it; nobody need
        if not self.over.done():
            self.over.set_result(exited)

    def _exit_of(self, code: int) -> Exit:
        ended = f"exit code {code}" if code >= 0 else f"signal {_signal(-code)}"
        said = f"{self.said}, {ended}" if self.said else ended
        reason = (
            "stopped"
            if self.stopping
            else self._why or ("killed" if code < 0 else "exited" if code or self._busy else "normal")
        )
        normal = self.stopping or reason == "normal"
        if code < 0:
            return Exit(reason, normal, said, signal=-code)
        return Exit(reason, normal, said, code=code)


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return str(number)


def _nothing() -> None:
    """Take note of the end of stderr: it means nothing."""
