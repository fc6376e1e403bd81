"""The SQL files, read once: named queries, the schema and the migrations."""

import re
import sqlite3
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

__all__ = ["migrations", "objects", "queries", "schema"]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries() -> Mapping[str, str]:
    """Return every statement of `queries.sql` by its name, without comments."""
    parts = _NAME.split(_read("queries.sql"))[1:]
    return MappingProxyType({name: _without_comments(body) for name, body in zip(parts[::2], parts[1::2], strict=True)})


@cache
def migrations() -> tuple[str, ...]:
    """Return the migrations in order; a store at schema n has had the first n."""
    folder = files(__package__) / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(_read(f"migrations/{name}") for name in names)


def schema() -> str:
    """Return the schema as it stands after every migration."""
    return _read("schema.sql")


@cache
def objects() -> Mapping[str, str]:
    """Return the tables, indexes, triggers and views that a store of this version has, by name, as SQL."""
    connection = sqlite3.connect(":memory:")
    try:
        for migration in migrations():
            connection.executescript(migration)
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    finally:
        connection.close()
    return MappingProxyType(dict(rows))


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _without_comments(body: str) -> str:
    lines = [line for line in body.splitlines() if not line.startswith("--")]
    return "\n".join(lines).strip().rstrip(";")
