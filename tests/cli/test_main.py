"""The command line as a whole: help, version, what is missing, what is unknown."""

import sys
from typing import Any

import pytest

from turnkeeper import __version__

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError("No module named " + repr({raised!r}), name={raised!r})

sys.meta_path.insert(0, Missing())
sys.argv = ["turnkeeper", *sys.argv[1:]]
from turnkeeper.cli import main
main()
"""


def without(command: Any, name: str, *args: str, raised: str | None = None) -> Any:
    """Run the command line where a package is not installed."""
    return command.run([sys.executable, "-c", BLOCKED.format(name=name, raised=raised or name), *args])


HELP = {
    "": ("Durable turns", "replay", "audit", "show", "demo"),
    "replay": ("FILE...", "--db", "--parallel", "--effects", "--think-ms", "--json", "Exit code"),
    "audit": ("DB", "--json", "exit code 1"),
    "show": ("DB", "SESSION", "TURN", "--json"),
    "demo": ("--keep", "--json"),
}


@pytest.mark.parametrize(("name", "said"), HELP.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_command_explains_itself(inside: Any, name: str, said: tuple[str, ...]) -> None:
    """`--help` and `-h`: what it does, what it takes; exit code 0."""
    names = [name] if name else []
    long, short = inside(*names, "--help"), inside(*names, "-h")

    assert (long.returncode, long.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert long.stdout.startswith("Usage: ")
    for word in said:
        assert word in long.stdout, word


def test_the_version_is_told(command: Any) -> None:
    """The package's own."""
    ended = command("--version")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"turnkeeper, version {__version__}\n"


@pytest.mark.parametrize("name", ["click", "rich"])
def test_a_missing_extra_is_named(command: Any, name: str) -> None:
    """One line says what to install; exit code 2."""
    ended = without(command, name, "--help")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "turnkeeper: the command line needs an extra: pip install 'turnkeeper[cli]'\n"


def test_any_other_missing_module_is_not_taken_for_the_extra(command: Any) -> None:
    """Advice that would not help is worse than the error itself."""
    ended = without(command, "rich", "--help", raised="pygments")

    assert ended.returncode == 1
    assert "turnkeeper[cli]" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'pygments'"


def test_the_library_needs_no_extra(command: Any) -> None:
    """Without click and rich, everything but the command line can be imported."""
    code = "import sys; sys.modules['click'] = sys.modules['rich'] = None; import turnkeeper, turnkeeper.cli"
    ended = command.run([sys.executable, "-c", code])

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("args", [("frobnicate",), ("--frobnicate",), ("replay",), ("audit",), ("show",)])
def test_what_is_unknown_or_missing_is_named(inside: Any, args: tuple[str, ...]) -> None:
    """Exit code 2, how it is used, and what is wrong; no traceback."""
    ended = inside(*args)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Usage: ")
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


def test_the_program_works_without_a_standard_output(command: Any, replayed: Any) -> None:
    """A service may be started with its output closed: the exit code says it all."""
    ended = command.shell(f"audit {replayed.name}", ">&-")

    assert (ended.returncode, ended.stderr) == (0, "")
