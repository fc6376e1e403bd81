"""The guard: no worker survives a runtime, however that dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from looking import until
from working import alive, children, gone, state

from turnkeeper.actors.process.spawned import Guard

RUNTIME = """
import asyncio, sys
from turnkeeper import Runtime
from turnkeeper.actors.process import process_agent
SCRIPT = '''
trap "" TERM HUP INT
sleep 300 &
echo $$ $! >"$PIDS"
echo '{"v":1,"type":"ready","incarnation":1}'
while :; do sleep 300; done
'''
async def main():
    w = process_agent("w", ["sh", "-c", SCRIPT], env={"PIDS": sys.argv[2]})
    async with Runtime(sys.argv[1], [w]) as runtime:
        await runtime.ask("s", "w", 1)
asyncio.run(main())
"""


async def test_no_worker_survives_a_runtime_that_is_killed(path: Path) -> None:
    """SIGKILL of the runtime: its workers, deaf to everything else, and their children are gone."""
    pids = path.with_name("pids")
    runtime = subprocess.Popen(  # noqa: ASYNC220 - it is there until it is killed
        [sys.executable, "-c", RUNTIME, str(path), str(pids)]
    )
    await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    found = [int(pid) for pid in pids.read_text().split()]
    assert all(alive(pid) for pid in found)
    runtime.kill()
    runtime.wait()
    began = time.perf_counter()
    await gone(*found)
    print(f"gone after {time.perf_counter() - began:.4f} s")


async def test_a_guard_that_was_killed_is_replaced_with_the_next_start(path: Path) -> None:
    """And the new one knows of those that are there already."""
    guard = Guard()
    first, second = (subprocess.Popen(["sleep", "300"], start_new_session=True) for _ in range(2))  # noqa: ASYNC220
    guard.add(first.pid)
    os.kill(guard.pid or 0, signal.SIGKILL)
    await until(lambda: guard.pid not in children() or state(guard.pid or 0) == "Z")
    guard.add(second.pid)
    guard.drop(second.pid)
    end_of_input(guard)

    assert first.wait() == -signal.SIGKILL
    assert second.poll() is None
    second.kill()
    second.wait()
    guard.close()


def end_of_input(guard: Guard) -> None:
    """What the guard reads when this process is dead."""
    assert guard._popen is not None
    assert guard._popen.stdin is not None
    guard._popen.stdin.close()
