"""The wheel and the sdist hold what the project needs to run."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), "."]
    done = subprocess.run(command, cwd=TOP, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def sources() -> set[str]:
    """Every file of the package that is not made by running it."""
    found = (path for path in (TOP / "turnkeeper").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(TOP).as_posix() for path in found}


def test_the_wheel_holds_every_module_and_sql_file(built: Path) -> None:
    """Modules, SQL, migrations, the sample and py.typed are in the wheel, and nothing beside the one package."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert names == sources()
    assert {name.split("/")[0] for name in names} == {"turnkeeper"}
    assert {"turnkeeper/py.typed", "turnkeeper/cli/sample.jsonl"} <= names
    assert any(name.endswith("migrations/0001_initial.sql") for name in names)


def test_the_sdist_holds_what_it_takes_to_build_and_test(built: Path) -> None:
    """The sdist has the package, its tests and its documents."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}

    assert sources() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"} <= names
    assert "tests/test_package.py" in names


def test_the_core_has_four_dependencies() -> None:
    """anyio, msgspec, aiosqlite and structlog; everything else is an extra."""
    import tomllib

    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    names = {dependency.split(">")[0] for dependency in project["dependencies"]}

    assert names == {"aiosqlite", "anyio", "msgspec", "structlog"}
    assert set(project["optional-dependencies"]) == {"cli", "dev", "testing"}
