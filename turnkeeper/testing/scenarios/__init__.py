"""Scenarios: what the kit runs by itself. Each module has a `life`, as a scenario file of your own has.

A later part of the library adds its scenario here: one module, and its name in `BUILT_IN`.
"""

from typing import Final

__all__ = ["BUILT_IN"]

BUILT_IN: Final = (
    "desk",
    "programs",
    "clients",
    "handlers",
    "doubts",
    "kernel",
    "trees",
    "participants",
    "arrivals",
    "waiting",
)
