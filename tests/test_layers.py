"""The layers: who may import whom, how long a room may be, how wide the door is."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import turnkeeper

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "turnkeeper"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = ("kernel", "actors", "supervisors")
LINES_MAX = 400
BODY_LINES_MAX = 50
FACE_NAMES_MAX = 20

PURE = {
    "abc",
    "base64",
    "bisect",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "string",
    "struct",
    "textwrap",
    "types",
    "typing",
    "unicodedata",
}
"""The parts of the standard library that do no I/O, read no clock, draw no chance and start no task."""


PYTESTS = {"pytest", "_pytest"}


def name_of(module: Path) -> str:
    """Return a module's dotted name."""
    parts = module.relative_to(TOP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: Path) -> Iterator[str]:
    """Yield what a module imports, wherever it stands in it, as dotted names; type-checking blocks count too."""
    package = name_of(module).split(".")[: None if module.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (inner if is_module(inner := f"{origin}.{alias.name}") else origin for alias in node.names)


def is_module(dotted: str) -> bool:
    """Say whether a dotted name is a module or a package of ours, and not a name within one."""
    path = TOP.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def of_layer(layer: str) -> list[Path]:
    return [module for module in MODULES if module.is_relative_to(PACKAGE / layer)]


def named(modules: list[Path]) -> list[object]:
    return [pytest.param(module, id=name_of(module)) for module in modules]


def test_there_are_modules_in_every_layer() -> None:
    """The tests below look at something."""

    assert all(len(of_layer(layer)) > 1 for layer in LAYERS)


# ---------------------------------------------------------------- directions


@pytest.mark.parametrize("module", named(of_layer("kernel")))
def test_the_kernel_imports_only_itself_msgspec_and_what_is_pure(module: Path) -> None:
    """No I/O, no clock, no chance, no task: what time it is, the caller says."""
    foreign = {
        name
        for name in imports(module)
        if not name.startswith("turnkeeper.kernel.") and name.split(".")[0] not in PURE | {"msgspec"}
    }

    assert not foreign


@pytest.mark.parametrize(
    ("layer", "below"),
    [("actors", ("kernel", "actors")), ("supervisors", ("kernel", "actors", "supervisors"))],
    ids=["actors", "supervisors"],
)
def test_a_layer_imports_only_itself_what_is_below_it_and_libraries(layer: str, below: tuple[str, ...]) -> None:
    """Actors know no supervisor, and neither knows the command line or the face."""
    upward = {
        (name_of(module), name)
        for module in of_layer(layer)
        for name in imports(module)
        if name.split(".")[0] == "turnkeeper"
        and ".".join(name.split(".")[:2]) not in {f"turnkeeper.{b}" for b in below}
    }

    assert not upward


def test_nothing_inside_imports_the_face() -> None:
    """`import turnkeeper` is for users; inside, every name is taken from where it is made."""
    found = {name_of(module) for module in MODULES for name in imports(module) if name == "turnkeeper"}

    assert not found


def test_nothing_inside_imports_by_the_links_names() -> None:
    """`kernel`, `actors` and `supervisors` at the top are for readers; other packages have these names."""
    found = {(name_of(module), name) for module in MODULES for name in imports(module) if name.split(".")[0] in LAYERS}

    assert not found


def test_the_core_needs_only_its_declared_libraries() -> None:
    """What the three layers import from outside is what an installation without extras brings."""
    declared = {"aiosqlite", "anyio", "msgspec", "structlog"}
    outside = {
        name.split(".")[0] for layer in LAYERS for module in of_layer(layer) for name in imports(module)
    } - sys.stdlib_module_names

    assert outside <= declared | {"turnkeeper"}


def test_the_kit_needs_pytest_only_where_pytest_loads_it() -> None:
    """Schedules, worlds and scenarios work without pytest; the plugin and the conformance suite are for it."""
    users = {name_of(module) for module in MODULES for name in imports(module) if name.split(".")[0] in PYTESTS}

    assert all(user.startswith(("turnkeeper.testing.plugin", "turnkeeper.testing.conformance")) for user in users)
    assert users


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("module", named(MODULES))
def test_a_module_is_short_enough_to_be_read_at_once(module: Path) -> None:
    """At most 400 lines a module."""

    assert len(module.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


@pytest.mark.parametrize("module", named(MODULES))
def test_a_function_is_short_enough_to_be_held_in_the_head(module: Path) -> None:
    """At most 50 lines a body, its docstring not counted."""
    long = {
        f"{node.name}: {lines}"
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := body_lines(node)) > BODY_LINES_MAX
    }

    assert not long


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", named(MODULES))
def test_a_module_says_itself_in_a_caption(module: Path) -> None:
    """The first line of every module's docstring is one whole sentence or caption."""
    doc = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))

    assert doc
    assert doc.splitlines()[0].endswith(".")


# ---------------------------------------------------------------- face and links


def test_the_face_has_at_most_twenty_names_and_each_is_there() -> None:
    """What users import fits on one line of a page."""

    assert len(turnkeeper.__all__) <= FACE_NAMES_MAX
    assert sorted(set(turnkeeper.__all__)) == sorted(turnkeeper.__all__)
    assert all(hasattr(turnkeeper, name) for name in turnkeeper.__all__)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_link_at_the_top_leads_to_its_layer(layer: str) -> None:
    """The three layers are found where one looks first; the links are relative, so that a copy keeps them."""
    link = TOP / layer

    assert link.is_symlink()
    assert link.readlink() == Path("turnkeeper", layer)
    assert link.resolve() == (PACKAGE / layer).resolve()
