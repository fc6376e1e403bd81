"""An open turn: a live turn as the runtime that runs it holds it in memory."""

import asyncio
from typing import TYPE_CHECKING, Any

from turnkeeper.kernel.edge import Suspended
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.step import StepRecord
from turnkeeper.kernel.supervision.storm import Storm
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.verdict import Stop

if TYPE_CHECKING:
    from turnkeeper.actors.run import Run

__all__ = ["OpenTurn"]


class OpenTurn:
    """A live turn in memory: its row as last submitted, its run if it has one, and who waits for its end.

    `row` runs ahead of the store by what is submitted and not yet committed; when the store refuses, the row is read
    again (`SessionAgent`, resync), and until then `broken` says why it is not to be trusted; while it is `rereading`
    nobody writes for it, or the row would be out of date as it comes. `steps` is the record that a rerun is answered
    from. `uncalled` are steps whose intent was written and whose tool has not been called: a run that ends there
    leaves no doubt about them. `progress_s` is when its run last got on, by the loop's clock; a pause that it was told
    to make counts as progress until its end. `fruitless` says that it has not got on at all, and `storm` hears when it
    does.
    """

    __slots__ = (
        "arrival",
        "broken",
        "committed",
        "deliverable",
        "failures",
        "fruitless",
        "loaded",
        "lost",
        "payload",
        "progress_s",
        "recoveries",
        "rereading",
        "row",
        "run",
        "settling",
        "started_s",
        "steps",
        "stop",
        "storm",
        "stumbles",
        "suspension",
        "task",
        "timer",
        "uncalled",
        "waiting",
    )

    def __init__(self, row: TurnRow, arrival: Arrival, *, committed: bool) -> None:
        """Hold a turn. One restored from the store has no payload here before its first run loads it."""
        self.row = row
        self.arrival = arrival
        self.committed = committed
        self.loaded = not committed
        self.payload = arrival.payload
        self.steps: dict[StepName, StepRecord] = {}
        self.failures = 0
        self.recoveries = 0
        self.stumbles = 0
        self.lost: TurnkeeperError | None = None
        self.settling: list[asyncio.Future[None]] = []
        self.rereading = False
        self.uncalled: dict[StepName, None] = {}  # in their order: it goes into edges
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.run: Run | None = None
        self.storm: Storm  # its agent's, from its first run on
        self.started_s = self.progress_s = 0.0
        self.deliverable: Deliverable | None = None
        self.waiting: list[asyncio.Future[Deliverable]] = []
        self.reset()

    def reset(self) -> None:
        """Forget the last run's end: a new run begins."""
        self.stop: Stop | None = None
        self.suspension: Suspended | None = None
        self.broken: TurnkeeperError | None = None
        self.fruitless = True
        self.uncalled.clear()

    def halt(self, why: Stop) -> None:
        """Tell the running handler to stop, by cancelling its task, again and again; the first reason counts."""
        if self.stop is None:
            self.stop = why
            if self.run is not None:
                self.run.insist()
        if self.task is not None:
            self.task.cancel()

    def put_off(self, at_s: float) -> None:
        """Let the limit on being without progress count from a moment; what is known of a later one stands."""
        self.progress_s = max(self.progress_s, at_s)

    def get_on(self, at_s: float) -> None:
        """Take note of progress."""
        self.put_off(at_s)
        self.fruitless = False
        self.storm.get_on()

    def settled(self) -> None:
        """Let those go on who waited to see how the turn stands."""
        settling, self.settling = self.settling, []
        for waiting in settling:
            if not waiting.done():
                waiting.set_result(None)

    def disarm(self) -> None:
        """Cancel the turn's timer, if it has one."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def finish(self, deliverable: Deliverable) -> None:
        """Hand the committed deliverable to everyone who waits for it."""
        self.deliverable = deliverable
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(deliverable)

    def abandon(self, error: TurnkeeperError) -> None:
        """Tell everyone who waits, or asks later, that this runtime will not deliver."""
        self.lost = error
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_exception(error.anew())
