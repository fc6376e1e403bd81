"""Tables: how counts are shown to people."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

__all__ = ["counts_table", "printable", "rows_table"]


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal, whoever wrote it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counts_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and numbers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, number in rows:
        table.add_row(name, number)
    return table


def rows_table(title: str, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table with a heading. Columns in which no row says anything are left out."""
    cells = [[str(cell) for cell in row] for row in rows]
    told = [number for number, _ in enumerate(columns) if any(row[number] for row in cells)]
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for number in told:
        table.add_column(columns[number].replace("_", " "), overflow="fold")
    for row in cells:
        table.add_row(*(row[number] for number in told))
    return table
