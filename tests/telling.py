"""Shared by tests that look back: a store told step by step, written as the kernel writes it, the clock in hand."""

from typing import Any

import msgspec

from turnkeeper.kernel.edge import (
    NOTHING,
    Detail,
    EdgeKind,
    Failure,
    PolicyResolved,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    encode_failure,
)
from turnkeeper.kernel.fork import fork_of
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import (
    Arrival,
    Change,
    accept,
    acquire,
    drop_duplicate,
    end,
    observe,
    requeue,
    resume,
    suspend,
)
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import FRESH_KEY, payload_digest
from turnkeeper.kernel.records import ActorOpened, NodeStarted, NodeStopped, Record
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.testing.memory import Disk
from turnkeeper.testing.memory.transaction import write

START = 1_000.0
DAY_S = 86_400.0


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


class Told:
    """A store in which one thing after another happens, a second apart unless told otherwise."""

    def __init__(self, lease_s: float = 45.0) -> None:
        self.disk = Disk()
        self.now = START
        self.lease = Lease(1, START + lease_s)
        self.turns: dict[int, TurnRow] = {}
        self.actors: dict[str, int] = {}
        self.write([NodeStarted(1, 4_711, START, self.lease.until)])

    @property
    def rows(self) -> Rows:
        return self.disk.rows()

    def write(self, records: list[Record]) -> None:
        refused = write(self.disk, [records])
        assert not refused, refused
        self.now += 1

    def _change(self, change: Change) -> None:
        self.turns[change.row.turn_id] = change.row
        self.write(change.records)

    # ------------------------------------------------------------ turns

    def accept(  # noqa: PLR0913 - what a story needs to say, each by name
        self,
        session: str = "s",
        key: str | None = "key",
        payload: Any = "hello",
        *,
        start: bool = True,
        version: str = "",
        fork: tuple[int, int] | None = None,
        expires_s: float = DAY_S,
    ) -> int:
        """Accept an inbound; `fork` is a source and the number of its steps."""
        turn_id = max(self.turns, default=0) + 1
        if session not in self.actors:
            self.actors[session] = len(self.actors) + 1
            self.write([ActorOpened(self.actors[session], "", session, "desk")])
        encoded, taken = packed(payload), None
        if fork is not None:
            encoded, taken = fork_of(fork[0], [edge for _, edge in self.rows.edges(fork[0])], fork[1])
        key = f"{FRESH_KEY}{turn_id}" if key is None else key
        digest = payload_digest(encoded)
        expires_at = self.now + expires_s
        arrival = Arrival(turn_id, self.actors[session], key, encoded, digest, self.now, expires_at, taken)
        self._change(accept(arrival, self.lease if start else None, version=version))
        return turn_id

    def came_again(self, turn_id: int) -> None:
        row, records = drop_duplicate(self.turns[turn_id], turn_id, turn_id, self.now)
        assert row is not None
        self._change(Change(row, records))

    def start(self, turn_id: int) -> None:
        self._change(acquire(self.turns[turn_id], self.lease, self.now))

    def requeue(self, turn_id: int, why: Requeued) -> None:
        self._change(requeue(self.turns[turn_id], why, self.now))

    def retry(self, turn_id: int, pause_s: float = 10.0, forgotten: list[StepName] | None = None) -> None:
        failure = Failure("ValueError", "no such order")
        self.requeue(turn_id, Requeued("retry", self.now + pause_s, failure, forgotten or []))

    def complete(self, turn_id: int, value: Any = "done") -> None:
        self._change(end(self.turns[turn_id], EdgeKind.TURN_COMPLETED, packed(value), self.now))

    def fail(self, turn_id: int, message: str = "no such order") -> None:
        body = encode_failure(Failure("ValueError", message))
        self._change(end(self.turns[turn_id], EdgeKind.TURN_FAILED, body, self.now))

    def cancel(self, turn_id: int) -> None:
        body = encode_failure(Failure("Cancelled", "on request"))
        self._change(end(self.turns[turn_id], EdgeKind.TURN_CANCELLED, body, self.now))

    # ------------------------------------------------------------ steps

    def _observe(self, turn_id: int, kind: EdgeKind, detail: Detail) -> None:
        self._change(observe(self.turns[turn_id], kind, detail, self.now))

    def intend(self, turn_id: int, issued: int, name: str, effect: str = "effectful", **arguments: Any) -> StepName:
        key = f"store/{turn_id}/{name}/#0"
        raw = msgspec.Raw(packed(arguments))
        self._observe(turn_id, EdgeKind.STEP_INTENDED, StepIntent(issued, name, "#0", effect, raw, key))
        return StepName(name, "#0")

    def answer(self, turn_id: int, issued: int, name: str, result: Any = "ok", *, pure: bool = False) -> StepName:
        arguments = msgspec.Raw(packed({})) if pure else NOTHING
        detail = StepResult(issued, name, "#0", msgspec.Raw(packed(result)), arguments)
        self._observe(turn_id, EdgeKind.STEP_SUCCEEDED, detail)
        return StepName(name, "#0")

    def fail_step(self, turn_id: int, issued: int, name: str, retry_at: float | None = None) -> StepName:
        failure = Failure("LookupError", "the provider said no")
        self._observe(turn_id, EdgeKind.STEP_FAILED, StepFailure(issued, name, "#0", failure, retry_at=retry_at))
        return StepName(name, "#0")

    def doubt(self, turn_id: int, issued: int, name: str) -> StepName:
        self._observe(turn_id, EdgeKind.STEP_UNKNOWN, StepDoubt(issued, name, "#0", "cut off by a crash"))
        return StepName(name, "#0")

    def policy(self, turn_id: int, name: str, policy: str, found: str = "") -> None:
        self._observe(turn_id, EdgeKind.POLICY_RESOLVED, PolicyResolved(name, "#0", policy, found))

    def suspend(self, turn_id: int, name: str, for_s: float = DAY_S) -> None:
        wait = Suspended("approval", self.now + for_s, StepName(name, "#0"), token="the-token")
        self._change(suspend(self.turns[turn_id], wait, self.now))

    def resume(self, turn_id: int, name: str, **found: Any) -> None:
        detail = Resumed(self.lease.boot_id, self.lease.until, StepName(name, "#0"), **found)
        self._change(resume(self.turns[turn_id], self.lease, detail, self.now))

    def stand(self, turn_id: int, issued: int, name: str, for_s: float = DAY_S, **arguments: Any) -> None:
        """Let a turn stand on an effect in doubt."""
        self.intend(turn_id, issued, name, **arguments)
        self.doubt(turn_id, issued, name)
        self.suspend(turn_id, name, for_s)

    # ------------------------------------------------------------ boots

    def stop_boot(self) -> None:
        self.write([NodeStopped(self.now, self.lease.boot_id)])
