"""The page on embedding names every event that the library logs, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import turnkeeper
from turnkeeper.actors.node import _ENDED
from turnkeeper.supervisors.sweep import Trouble

SOURCE = Path(turnkeeper.__file__).parent
PAGE = SOURCE.parent / "docs" / "embedding.md"
SAYING = {"info", "warning", "error", "exception", "log"}
PARTICIPANTS = (SOURCE / "kernel" / "supervision" / "participant.py").read_text()
TABLES = {
    "_ENDED[deliverable.outcome]": set(_ENDED.values()),
    "trouble.value": {trouble.value for trouble in Trouble},
    "f'participant.{event}'": {
        f"participant.{kind.lower()}" for kind in re.findall(r"ChildEventKind\.(\w+)", PARTICIPANTS)
    },
}
"""What is logged under a name that does not stand where it is logged."""


def events(module: Path) -> Iterator[str]:
    """Yield the names under which a module logs: the first argument, behind the level where there is one."""
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=to, attr=saying), args=[_, *_] as args) if (
                saying in SAYING and ast.unparse(to).removesuffix("()").endswith(("log", "logger"))
            ):
                name = args[1 if saying == "log" else 0]
                found = {name.value} if isinstance(name, ast.Constant) else TABLES[ast.unparse(name)]
                yield from map(str, found)


def test_the_page_names_every_event_that_is_logged_and_nothing_else() -> None:
    logged = {event for module in SOURCE.rglob("*.py") for event in events(module)}
    rows = re.findall(r"^\| [\w ,]+ \| (`\w+\.\w+`.*) \|$", PAGE.read_text(), re.MULTILINE)
    named = re.findall(r"`(\w+\.\w+)`", " ".join(rows))

    assert len(logged) > 50
    assert sorted(named) == sorted(logged)
