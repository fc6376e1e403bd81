"""Fitting: which values a column takes, and how a record is refused that has another, or breaks a rule."""

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.records import Record

__all__ = ["FITS", "refused", "require", "require_text", "require_times"]

_INT_END: Final = 1 << 63


def _is_int(value: object) -> bool:
    return isinstance(value, int) and -_INT_END <= value < _INT_END


def _is_real(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_blob(value: object) -> bool:
    return isinstance(value, bytes)


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


FITS: Final[Mapping[object, Callable[[object], bool]]] = MappingProxyType(
    {
        int: _is_int,
        bytes | None: lambda value: value is None or _is_blob(value),
        int | None: lambda value: value is None or _is_int(value),
        float: _is_real,
        float | None: lambda value: value is None or _is_real(value),
        str: _is_text,
        bytes: _is_blob,
    }
)


def refused(record: Record, why: str) -> StorageFailed:
    """Return what the writer of a record is told that breaks a rule of the tables."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(record).__name__).lower()
    return StorageFailed("store", f"{name} was refused: {why}")


def require(holds: bool, record: Record, why: str) -> None:
    """Refuse a record where a rule does not hold."""
    if not holds:
        raise refused(record, why)


def require_times(record: Record, *times: float) -> None:
    """Refuse a time that is no number: a database stores it as no value."""
    for time in times:
        require(not math.isnan(time), record, "a time is not a number")


def require_text(record: Record, text: str, bytes_max: int) -> None:
    """Refuse a text that is longer than its column takes."""
    require(len(text.encode()) <= bytes_max, record, f"a text of it has more than {bytes_max} bytes")
