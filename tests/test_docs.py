"""What the README and the docs show runs as it is shown."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DRY = {f"make {target}" for target in ("test", "demo", "bench", "explore", "lint", "mutants", "types", "wheel")}
"""Targets that are run by CI itself, or would run this test: here make only says what it would do."""


def blocks(language: str) -> list[object]:
    """Every block of a language, named by its page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[2], id=f"{page.name}:{line}"))
    return found


def in_words(line: str) -> str:
    return line.partition("  #")[0].strip()


@pytest.mark.parametrize("program", blocks("python"))
def test_a_program_runs_as_it_is_shown(program: str, tmp_path: Path) -> None:
    """Every Python block is a whole program, or a whole file of tests."""
    (tmp_path / "test_page.py").write_text(program)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = re.search(r"^(async def test_|class Test)", program, re.MULTILINE)
    command = ["-m", "pytest", "-q", "-W", "error"] if tests else ["-c", program]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.parametrize("commands", blocks("sh"))
def test_commands_run_as_they_are_shown(commands: str, tmp_path: Path) -> None:
    """Every shell block runs, in a copy of the checkout, line by line."""
    copy = tmp_path / "turnkeeper"
    shutil.copytree(TOP, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".git", "*.db*", "dist"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in filter(None, map(in_words, commands.splitlines())):
        command = line.replace("make ", "make -n ", 1) if line in DRY else line
        if not (copy / ".venv").exists() and not command.startswith("python3 -m venv"):
            command = command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        done = subprocess.run(["bash", "-c", command], cwd=copy, env=environment, check=False, capture_output=True)

        assert done.returncode == 0, f"{line}\n{done.stdout.decode()}{done.stderr.decode()}"


def test_inline_commands_of_the_pages_are_real() -> None:
    """Every `make x` and `python -m x` that a page names exists."""
    makefile = (TOP / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make (\w+)`", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
        for module in re.findall(r"`python -m ([\w.]+)", page.read_text()):
            named = TOP / module.replace(".", "/")
            assert named.with_suffix(".py").exists() or (named / "__main__.py").exists(), f"{page.name}: {module}"


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link has a file at its end."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_guarantee_names_a_test_that_exists() -> None:
    """The README's table of guarantees points at tests by file and name."""
    rows = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (TOP / "README.md").read_text())

    assert len(rows) >= 8
    for file, name in rows:
        assert re.search(rf"^(async )?def {name}\(", (TOP / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_a_python_program_of_the_readme_has_at_most_twenty_lines() -> None:
    """The first program is short enough to be read."""
    program = next(match[2] for match in BLOCK.finditer((TOP / "README.md").read_text()) if match[1] == "python")

    assert len([line for line in program.splitlines() if line.strip()]) <= 16


def test_the_errors_of_the_pages_exist() -> None:
    """No page promises an error that the library does not have."""
    from turnkeeper import errors

    table = (TOP / "docs" / "embedding.md").read_text()
    for name in re.findall(r"^\| `([A-Z]\w+)` \|", table, re.MULTILINE):
        assert hasattr(errors, name), name
