"""Tables: how counts are shown to people."""

from collections.abc import Iterable

from rich import box
from rich.table import Table

__all__ = ["counts_table", "rows_table"]


def counts_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and numbers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, number in rows:
        table.add_row(name, number)
    return table


def rows_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table with a heading; None is shown as nothing."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    return table
