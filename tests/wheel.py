"""Build the wheel and the sdist, install the wheel into an empty environment, and use it there as a user would.

Run by `make wheel`: it needs the package index, for the four dependencies.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TOP = Path(__file__).parents[1]
PROGRAM = """
import asyncio
from turnkeeper import Runtime, Turn, agent

@agent("greeter")
async def greeter(turn: Turn) -> str:
    return await turn.step("greet", lambda name: f"hello {name}", turn.input)

async def main() -> None:
    async with Runtime("agents.db", [greeter]) as runtime:
        result = await runtime.ask("session-1", "greeter", "world", key="first")
        assert result.value == "hello world", result

asyncio.run(main())
"""


def run(*command: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command that must succeed, showing it."""
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], cwd=cwd, check=True, text=True)


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", made, ".", cwd=TOP)
        (wheel,) = made.glob("*.whl")
        venv.create(made / "env", with_pip=True)
        python = made / "env" / "bin" / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, wheel, cwd=made)
        run(python, "-c", PROGRAM, cwd=made)
        without = subprocess.run([python, "-m", "turnkeeper"], cwd=made, check=False, capture_output=True, text=True)
        assert without.returncode == 2, without
        assert "turnkeeper[cli]" in without.stderr, without
        run(*pip, f"{wheel}[cli]", cwd=made)
        run(made / "env" / "bin" / "turnkeeper", "demo", cwd=made)
        run(made / "env" / "bin" / "turnkeeper", "audit", "agents.db", cwd=made)


if __name__ == "__main__":
    main()
