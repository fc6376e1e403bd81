"""The crash log: every crash is logged or counted in a record that is; a storm of them does not drown the process."""

import asyncio
from typing import Final

from turnkeeper.actors.node import logger

__all__ = ["CrashLog"]

WINDOW_S: Final = 1.0
RECORDS_MAX: Final = 10
"""Crashes of a window that are logged one by one, each of another place: formatting a traceback costs about 50 us,
twenty times a restart, and ten of one storm, one behind the other, are what its neighbours wait for longest."""
NAMES_MAX: Final = 100
"""Actors that the summary of a window names."""

_log: Final = logger()


class CrashLog:
    """Logs an actor's first crash of a second as `actor.crashed`, with the traceback, if its place in the code is new.

    The others, those of an error that the actor has raised in this second before, and those at an eleventh place become
    one number.

    Its record, `actor.crashes`, comes at the end of the second, or when the actors close. Its `crashes` is how many
    were not logged one by one, its `actors` how many by actor and type of error; what does not fit there is `others`.
    """

    __slots__ = ("_counts", "_loop", "_others", "_places", "_timer")

    def __init__(self) -> None:
        """Make a log; nothing can crash before it is opened."""
        self._places: set[tuple[type[BaseException], int, int]] = set()
        self._counts: dict[tuple[str, type[BaseException]], int] = {}
        self._others = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the time from this loop."""
        self._loop = loop

    def note(self, actor: str, crash: BaseException) -> None:
        """Log a crash, or count it where this second has seen its like, or enough of them."""
        if self._timer is None:
            self._timer = self._loop.call_later(WINDOW_S, self.flush)
        key = actor, type(crash)
        count = self._counts.get(key)
        if count is None and self._is_of_a_new_place(crash):
            _log.error("actor.crashed", actor=actor, exc_info=crash)
            self._counts[key] = 0
        elif count is not None or len(self._counts) < NAMES_MAX:
            self._counts[key] = (count or 0) + 1
        else:
            self._others += 1

    def _is_of_a_new_place(self, crash: BaseException) -> bool:
        """Note where a handler was when it crashed; say whether that is to be shown."""
        trace = crash.__traceback__
        code, at = (id(trace.tb_frame.f_code), trace.tb_lasti) if trace is not None else (0, 0)
        place = type(crash), code, at  # a code's own hash is over all of it
        if place in self._places or len(self._places) >= RECORDS_MAX:
            return False
        self._places.add(place)
        return True

    def flush(self) -> None:
        """Log what was only counted, and begin anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._places.clear()
        crashes = sum(self._counts.values()) + self._others
        if crashes:
            actors = {
                f"{actor}: {error.__qualname__}": count for (actor, error), count in self._counts.items() if count
            }
            _log.error("actor.crashes", crashes=crashes, actors=actors, others=self._others)
        self._counts.clear()
        self._others = 0
