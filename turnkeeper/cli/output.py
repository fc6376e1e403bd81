"""Output: what the commands say, to people and to machines."""

import json
import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console

from turnkeeper.cli.tables import printable

__all__ = ["err", "json_option", "named", "out", "print_json", "print_line"]

_PIPE_WIDTH: Final = 1_000_000
"""No line is folded where no terminal shows it: `grep` finds what stands on one line."""

_COMMAND: Final = re.compile(r"(?<=turnkeeper )(resolve|fork|replay-plan|explain|approve|deny|answer) DB (?=\d)")

out = Console(highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line, for machines."
)


def print_line(text: str) -> None:
    """Print one line for people that cannot steer a terminal, whoever wrote it."""
    out.print(printable(text), markup=False, soft_wrap=True)


def named(text: str, db: Path) -> str:
    """Return a text in which the commands name this store."""
    return _COMMAND.sub(lambda found: f"{found[1]} {shlex.quote(str(db))} ", text)


def print_json(value: Any) -> None:
    """Print one line of JSON; what JSON does not know is shown as its representation."""
    plain = "utf" not in (getattr(out.file, "encoding", None) or "utf-8").lower()
    try:
        said = json.dumps(_for_json(value), ensure_ascii=plain, allow_nan=False)
    except RecursionError as error:
        raise click.ClickException("a value is nested too deep to be shown as JSON") from error
    out.file.write(said + "\n")
    out.file.flush()


def _for_json(value: Any) -> Any:
    match value:
        case msgspec.Struct():
            return {name: _for_json(getattr(value, name)) for name in value.__struct_fields__}
        case dict():
            return {name if isinstance(name, str) else repr(name): _for_json(one) for name, one in value.items()}
        case list() | tuple():
            return [_for_json(one) for one in value]
        case str() | int() | None:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            return repr(value)
