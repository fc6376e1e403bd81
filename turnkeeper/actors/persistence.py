"""The persistence actor: the one writer, and the only place where something becomes durable.

Whoever has something to write hands over a commit point and is told when it stands, or why it does not.
The writer takes everything that waits, up to a limit, into one transaction: queue depth is the batch size,
so there is no timer and no lingering (waiting 1 ms for a bigger batch cost latency and won nothing).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from turnkeeper.kernel.errors import MailboxFull, ShuttingDown, StorageFailed, TurnkeeperError
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import Record

__all__ = ["Persistence", "PersistenceStatistics", "Told", "conclude", "settle"]

T = TypeVar("T")

Told = Callable[[TurnkeeperError | None], None]
"""Called once, in the event loop, when a commit point stands (None) or was refused (the reason)."""


class PersistenceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the writer has done since the store was opened. `failing` is why the last batch failed, "" if it did not."""

    commits: int
    points: int
    points_rejected: int
    batch_largest: int
    waiting: int
    failing: str


class Persistence:
    """The one writer of a store.

    Commit points become durable in the order in which they were submitted. A batch in which one point is refused
    is written again without it: only the guilty one fails. When the store itself fails (disk full, I/O), every
    point of the batch and everything submitted meanwhile fails with `StorageFailed`, because later points of a
    turn must not stand where earlier ones do not; the next submission tries again.
    """

    __slots__ = (
        "_batch_max",
        "_closing",
        "_commits",
        "_committed",
        "_failing",
        "_largest",
        "_loop",
        "_points",
        "_rejected",
        "_stopped",
        "_store",
        "_waiting",
        "_waiting_max",
        "_wake",
    )

    def __init__(self, store: Store, *, batch_max: int, waiting_max: int) -> None:
        """Make the writer of an opened store; `run` must be running for anything to become durable."""
        self._store = store
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._waiting: deque[tuple[Sequence[Record], Told]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._committed: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._failing = ""
        self._stopped: TurnkeeperError | None = None
        self._commits = self._points = self._rejected = self._largest = 0

    def submit(self, records: Sequence[Record], told: Told) -> None:
        """Hand over one commit point: its records stand together or not at all.

        Never waits and is never cancelled with its caller: what is submitted is written. `told` runs in the
        order of submission, before any task that waits for the same batch is resumed.
        """
        if self._stopped is not None:
            told(self._stopped.anew())
            return
        self._waiting.append((records, told))
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def commit(self, records: Sequence[Record]) -> None:
        """Hand over one commit point and wait until it stands. Cancelling stops the waiting, not the write.

        Raises:
            TurnkeeperError: why it was refused; nothing of it was written.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self.submit(records, settle(done))
        await done

    async def flush(self) -> None:
        """Wait until everything that was handed over before this is written, or refused."""
        done: asyncio.Future[TurnkeeperError | None] = self._loop.create_future()
        self.submit((), lambda error: None if done.done() else done.set_result(error))
        await done

    def next_commit(self) -> Callable[[], Awaitable[None]]:
        """Return what waits for the first commit after this call, or for the end of the writer."""
        if self._committed is None:
            self._committed = self._loop.create_future()
            if self._stopped is not None:
                self._committed.set_result(None)
        committed = self._committed

        async def wait() -> None:
            await asyncio.wait([committed])  # shared: one who is cancelled must not cancel the others

        return wait

    def check_room(self) -> None:
        """Refuse new work, before it is acknowledged, while too much waits to become durable.

        Raises:
            MailboxFull: `commits_waiting_max` commit points wait.
        """
        if len(self._waiting) >= self._waiting_max:
            raise MailboxFull("persistence", self._waiting_max)

    async def run(self) -> None:
        """Write until `close`. One batch is in flight at a time."""
        while True:
            if not self._waiting:
                if self._closing:
                    self.stop(ShuttingDown())
                    return
                self._wake = self._loop.create_future()
                await self._wake  # resumes a cycle later: whoever was ready beside the first has spoken by then
                self._wake = None
                continue
            waiting = self._waiting
            await self._write([waiting.popleft() for _ in range(min(len(waiting), self._batch_max))])
            await asyncio.sleep(0)  # whoever was just told to go on speaks first: its points fill the next batch

    @property
    def closing(self) -> bool:
        """Say whether it was told to end."""
        return self._closing

    def close(self) -> None:
        """Let `run` return once everything submitted is written."""
        self._closing = True
        self._rouse()

    def stop(self, error: TurnkeeperError) -> None:
        """Tell everyone who still waits, or comes later, that nothing becomes durable any more, and why."""
        self._stopped = error
        self._fail_waiting(error)
        self._tell_of_commit()

    def statistics(self) -> PersistenceStatistics:
        """Return what the writer has done; `commits` is the number of transactions."""
        return PersistenceStatistics(
            commits=self._commits,
            points=self._points,
            points_rejected=self._rejected,
            batch_largest=self._largest,
            waiting=len(self._waiting),
            failing=self._failing,
        )

    def _fail_waiting(self, error: TurnkeeperError) -> None:
        failed = list(self._waiting)
        self._waiting.clear()
        self._tell(failed, {number: error.anew() for number in range(len(failed))})

    async def _write(self, batch: list[tuple[Sequence[Record], Told]]) -> None:
        try:
            rejected = await self._store.apply([records for records, _ in batch])
            self._rejected += len(rejected)
        except StorageFailed as error:
            self._failing = error.reason
            self._waiting.extendleft(reversed(batch))
            self._fail_waiting(error)
            return
        except BaseException:
            self._waiting.extendleft(reversed(batch))  # whoever ends the writer answers them
            raise
        self._failing = ""
        self._commits += 1
        self._points += len(batch)
        self._largest = max(self._largest, len(batch))
        self._tell(batch, rejected)
        self._tell_of_commit()

    def _tell_of_commit(self) -> None:
        if self._committed is not None and not self._committed.done():
            self._committed.set_result(None)
        self._committed = None

    def _tell(self, batch: list[tuple[Sequence[Record], Told]], rejected: Mapping[int, TurnkeeperError]) -> None:
        for number, (_, told) in enumerate(batch):
            try:
                told(rejected.get(number) if rejected else None)
            except Exception as error:  # noqa: BLE001 - one listener's bug must not leave the others untold
                self._loop.call_exception_handler({"message": "a commit's listener failed", "exception": error})


def settle(done: asyncio.Future[None]) -> Told:
    """Return what settles a future of one waiter; a waiter that was cancelled is not told."""
    return lambda error: conclude(done, None, error)


def conclude(done: asyncio.Future[T], value: T, error: TurnkeeperError | None) -> None:
    """Give a waiter its value, or the error; a waiter that was cancelled is not told."""
    if done.done():
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)
