"""Shared by the tests of process agents: workers of every kind, and looking at processes from outside."""

import os
import signal
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

from looking import until

from turnkeeper import Effect, Retry, Runtime, Settings, step_context, tool
from turnkeeper.actors.process import ProcessAgent, ProcessLimits, process_agent, python_worker
from turnkeeper.actors.tool import DidNotHappen, Happened
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.view import ChildView

FAST = Settings(synchronous="OFF", shutdown_s=0.5, recoveries_max=1_000, retry_base_s=0.001, retry_cap_s=0.001)
OFTEN = Intensity(restarts_max=100_000, pauses_s=(0.0,))
AGAIN = Retry(retries_max=1_000, base_s=0.001, cap_s=0.001)

SHELL = """
field() { printf '%s\\n' "$line" | sed -n "s/.*\\"$1\\":\\"\\{0,1\\}\\([^\\",}]*\\).*/\\1/p"; }
say() { printf '{"v":1,%s}\\n' "$1"; }
ready() { say '"type":"ready","incarnation":'"$TURNKEEPER_INCARNATION"; }
result() { say '"type":"result","turn":'"$turn"',"value":"'"$1"'"'; }
"""
"""What shell workers of tests begin with."""


def shell(script: str, **declared: Any) -> ProcessAgent:
    """An agent whose worker is a shell script: `turn` is its first turn's number, once it has been read."""
    head = f"{SHELL}\nread -r line\nready\n"
    begun = "turn) turn=$(field turn); break;; bye) exit 0;;"
    until_turn = f"while read -r line; do case $(field type) in {begun} esac; done\n"
    return quick(["sh", "-c", head + until_turn + script], **declared)


def python(folder: Path, body: str, **declared: Any) -> ProcessAgent:
    """An agent whose worker is a Python file of this text, `run` and `Turn` imported."""
    file = folder / "mine.py"
    file.write_text("from turnkeeper.worker import *\n" + textwrap.dedent(body))
    return quick(python_worker(file), **declared)


def quick(command: list[str], **declared: Any) -> ProcessAgent:
    """An agent that is told at once, and may fall as often as it likes."""
    limits = {"shutdown_s": 0.4, "cancel_s": 0.3, **declared.pop("limits", {})}
    given = {"intensity": OFTEN, "retry": Retry(retries_max=0), **declared}
    return process_agent("w", command, limits=ProcessLimits(**limits), **given)


def of_worker(runtime: Runtime, number: int = 1) -> ChildView:
    """A worker of the agent as the runtime's tree has it."""
    view = runtime.tree()
    for name in ("processes", "w", str(number)):
        view = next(child for child in view.children if child.name == name)
    return view


def pid_of(agent: ProcessAgent) -> int | None:
    return next((worker.pid for worker in agent.workers()), None)


def state(pid: int) -> str:
    """Return the letter that the system has for what a process does: T is stopped, Z a zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    """Whether a process runs: what is a zombie does not, but one that is ours has been forgotten."""
    try:
        now = state(pid)
    except OSError:
        return False
    return now != "Z" or os.getpid() == int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children() -> set[int]:
    """Every child of this process, zombies too."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.add(int(entry.name))
    return found


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def gone(*pids: int) -> None:
    await until(lambda: not any(alive(pid) for pid in pids))


__all__ = [
    "AGAIN",
    "FAST",
    "OFTEN",
    "DidNotHappen",
    "Effect",
    "Happened",
    "alive",
    "children",
    "descriptors",
    "gone",
    "of_worker",
    "pid_of",
    "python",
    "quick",
    "shell",
    "signal",
    "step_context",
    "sys",
    "tool",
]
