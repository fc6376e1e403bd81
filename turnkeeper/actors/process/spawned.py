"""Spawned: a child process in a session of its own, its end seen at once, and a guard that outlives the runtime."""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Guard", "Identity", "Spawned"]

_GATE: Final = 'read -r go && exec "$@"'
"""The command begins once the guard knows of it: a runtime killed before that leaves a shell that reads its end."""

_GUARD: Final = """
trap '' HUP INT TERM QUIT
all=' '
while read -r word pid; do
    case $word in
        add) all="$all$pid " ;;
        drop) case $all in *" $pid "*) all="${all%% "$pid" *} ${all#* "$pid" }" ;; esac ;;
    esac
done
for pid in $all; do kill -s KILL -- "-$pid"; done
"""
"""Reads process groups to watch over; at the end of its input, which comes also when the runtime is killed with
SIGKILL, it kills those that are left."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Which process this is: a process id is given again, with another start time.

    Args:
        pid: its process id, and that of its group and session.
        started: when it started, in clock ticks since the boot of the machine; 0 where there is no /proc.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """Return who has this process id now; `started` is 0 where nobody has, or there is no /proc."""
        try:
            said = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return cls(pid, 0)
        return cls(pid, int(said.rpartition(b")")[2].split()[19]))


class Spawned:
    """A child process: three pipes, a process group of its own, and one call when it has ended.

    Its group is killed while the process is dead and not yet reaped: until then nobody else can have its number.
    """

    __slots__ = ("_loop", "_pidfd", "_popen", "_told", "identity", "stderr", "stdin", "stdout")

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, told: Callable[[], None]
    ) -> None:
        """Start it behind its gate: it waits for one line on stdin before the command begins.

        Args:
            command: program and arguments.
            env: added to the environment of this process.
            cwd: where it runs; None for here.
            told: called in the loop once, when it has ended; then `reap` it.

        Raises:
            OSError: it cannot be started.
        """
        self._loop = asyncio.get_running_loop()
        self._told: Callable[[], None] | None = told
        self._popen = subprocess.Popen(  # noqa: S603 - the command is the application's own
            ["/bin/sh", "-c", _GATE, command[0], *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env={**os.environ, **env},
            start_new_session=True,
        )
        self.identity = Identity.of(self._popen.pid)
        pipes = [pipe for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr) if pipe is not None]
        self.stdin, self.stdout, self.stderr = (pipe.fileno() for pipe in pipes)
        for pipe in pipes:
            os.set_blocking(pipe.fileno(), False)
        self._pidfd = self._watch()

    def _watch(self) -> int | None:
        """Have the loop say when it ends: through a descriptor of the process or, where there are none, a thread."""
        try:
            pidfd = os.pidfd_open(self._popen.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait, daemon=True, name=f"turnkeeper-wait-{self._popen.pid}").start()
            return None
        self._loop.add_reader(pidfd, self._ended)
        return pidfd

    def _wait(self) -> None:
        if hasattr(os, "waitid"):
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._popen.wait()
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        if self._told is not None:
            told, self._told = self._told, None
            told()

    def signal(self, number: int) -> None:
        """Send a signal to the process and everyone in its group; nothing where none is left."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of zombies
                os.killpg(self._popen.pid, number)

    def reap(self) -> int:
        """Kill what it leaves behind, take its exit code (the negative number of a signal), forget it.

        Blocks until it has ended: at once after `told`, or after the kill here.
        """
        self._told = None
        self.signal(signal.SIGKILL)
        code = self._popen.wait()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        return code

    def shut_stdin(self) -> None:
        """Close its stdin alone, so that it reads the end of its input."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def close(self) -> None:
        """Close the pipes; whoever reads or writes them must have let go."""
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()


class Guard:
    """A small process beside the workers that kills their groups when this process dies, however it dies.

    It is started with the first that it watches over, and again after it was closed.
    """

    __slots__ = ("_pids", "_popen")

    def __init__(self) -> None:
        """Start nothing before there is something to guard."""
        self._pids: set[int] = set()
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the guard's own process id, None where it is not running."""
        return None if self._popen is None else self._popen.pid

    def add(self, pid: int) -> None:
        """Watch over a process group from now on. A guard that somebody has killed is started again.

        Raises:
            OSError: there is no guard to be had.
        """
        if self._popen is None or self._popen.poll() is not None:
            self.close()
            self._popen = subprocess.Popen(  # noqa: S603 - a program of ours
                ["/bin/sh", "-c", _GUARD, "turnkeeper-guard"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
            for known in self._pids:
                self._say(f"add {known}\n")
        self._pids.add(pid)
        self._say(f"add {pid}\n")

    def drop(self, pid: int) -> None:
        """Forget a process group that is gone."""
        self._pids.discard(pid)
        with suppress(OSError):  # a guard that is dead kills nobody
            self._say(f"drop {pid}\n")

    def rest(self) -> None:
        """End the guard where nobody is left to watch over."""
        if not self._pids:
            self.close()

    def _say(self, words: str) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            self._popen.stdin.write(words.encode())

    def close(self) -> None:
        """End the guard and nobody else; what it watched over is not touched."""
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.kill()  # before its input ends: it could know of groups that are gone
            popen.wait()
            if popen.stdin is not None:
                popen.stdin.close()
