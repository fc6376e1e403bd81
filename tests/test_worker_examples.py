"""The example workers: the protocol is plain enough for a shell script, and all of them do the same."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from looking import check_invariants

from turnkeeper import Effect, Runtime, Settings, tool
from turnkeeper.actors.process import process_agent, python_worker

WORKERS = Path(__file__).parents[1] / "examples" / "workers"
COMMANDS = {
    "python": [sys.executable, str(WORKERS / "worker.py")],
    "python alone": python_worker(WORKERS / "worker.py"),
    "shell": ["sh", str(WORKERS / "worker.sh")],
    "javascript": ["node", str(WORKERS / "worker.js")],
}


@tool(effect=Effect.PURE)
async def price_of(order: str) -> int:
    if not order.startswith("W"):
        raise LookupError(order)
    return 500


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_worker_pays_once_in_every_language(path: Path, language: str) -> None:
    """A tool of the runtime is called, a step is done in the worker under its key, a refused order fails the turn."""
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    paid = path.with_name("paid")
    payer = process_agent("payer", command, tools=[price_of], env={"PAID": str(paid)})
    async with Runtime(path, [payer], settings=Settings(synchronous="OFF", retries_max=0)) as runtime:
        first = await runtime.ask("s", "payer", "W42", key="1")
        again = await runtime.ask("s", "payer", "W42", key="1")
        with pytest.raises(Exception, match="step price_of"):
            (await runtime.ask("s", "payer", "X1")).value  # noqa: B018 - it raises
        (worker,) = payer.workers()

    assert first.value == again.value == "paid 500"
    assert paid.read_text().endswith("/1/pay/#0 500\n")
    assert len(paid.read_text().splitlines()) == 1
    assert worker.incarnation == 1
    assert worker.refused == 0
    check_invariants(path)


def test_the_workers_library_loads_nothing_else(tmp_path: Path) -> None:
    """A worker that needs only the library is up without the package, and without what the package needs."""
    program = "import sys; from turnkeeper.worker import run; print(sorted(m for m in sys.modules if 'msgspec' in m))"
    library = str(WORKERS.parents[1] / "turnkeeper" / "worker.py")
    (tmp_path / "mine.py").write_text(program)
    command = [sys.executable, library, str(tmp_path / "mine.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
