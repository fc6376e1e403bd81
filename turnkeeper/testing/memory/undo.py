"""Undo: changes to tables, each noted with what was there before."""

from typing import Any, Final

__all__ = ["Undo"]

_ABSENT: Final = object()


class Undo:
    """Changes tables, and can take it back to a mark."""

    __slots__ = ("_undo",)

    def __init__(self) -> None:
        """Begin with nothing to undo."""
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    def mark(self) -> int:
        """Return the moment to which `roll_back` leads back."""
        return len(self._undo)

    def roll_back(self, mark: int) -> None:
        """Undo what was done since a mark."""
        undo = self._undo
        while len(undo) > mark:
            table, key, before = undo.pop()
            if before is _ABSENT:
                del table[key]
            else:
                table[key] = before

    def _put(self, table: dict[Any, Any], key: object, value: object) -> None:
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def _drop(self, table: dict[Any, Any], key: object) -> None:
        self._undo.append((table, key, table.pop(key)))
