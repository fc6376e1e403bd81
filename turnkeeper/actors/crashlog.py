"""The crash log: every crash is logged or counted in a record that is; a storm of them does not drown the process."""

import asyncio
import logging
from typing import Final

__all__ = ["CrashLog"]

WINDOW_S: Final = 1.0
RECORDS_MAX: Final = 10
"""Crashes of a window that are logged one by one; formatting a traceback costs about 50 us, twenty times a restart."""
NAMES_MAX: Final = 100
"""Actors that the summary of a window names."""

logger = logging.getLogger("turnkeeper")


class CrashLog:
    """Logs the first crashes of a second as `actor.crashed`, with the traceback, and the others as one number.

    That record, `actor.crashes`, comes at the end of the second, or when the actors close. Its `crashes` is how many
    were not logged one by one, its `actors` how many by actor and type of error; what does not fit there is `others`.
    """

    __slots__ = ("_counts", "_loop", "_others", "_records", "_timer")

    def __init__(self) -> None:
        """Make a log; nothing can crash before it is opened."""
        self._records = 0
        self._counts: dict[tuple[str, type[BaseException]], int] = {}
        self._others = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the time from this loop."""
        self._loop = loop

    def note(self, actor: str, crash: BaseException) -> None:
        """Log a crash, or count it where this second has seen enough of them."""
        if self._timer is None:
            self._timer = self._loop.call_later(WINDOW_S, self.flush)
        if self._records < RECORDS_MAX:
            self._records += 1
            logger.error("actor.crashed", exc_info=crash, extra={"actor": actor})
            return
        key = actor, type(crash)
        count = self._counts.get(key, 0)
        if count or len(self._counts) < NAMES_MAX:
            self._counts[key] = count + 1
        else:
            self._others += 1

    def flush(self) -> None:
        """Log what was only counted, and begin anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._records = 0
        crashes = sum(self._counts.values()) + self._others
        if crashes:
            actors = {f"{actor}: {error.__qualname__}": count for (actor, error), count in self._counts.items()}
            logger.error("actor.crashes", extra={"crashes": crashes, "actors": actors, "others": self._others})
        self._counts.clear()
        self._others = 0
