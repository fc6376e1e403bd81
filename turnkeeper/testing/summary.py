"""The summary of a simulation: counted from the rows of its world, in virtual and in real time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.edge import Edge, EdgeKind, Requeued, decode_detail
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.turn import TERMINAL
from turnkeeper.testing.runs import Outcome

__all__ = ["Counts", "Summary"]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation came to; over several seeds, in sum.

    Args:
        scenario: its name or file.
        seeds: runs.
        hash: of every row in the end; for several seeds, of their hashes in order.
        sessions: session agents that were spoken to.
        turns: inbounds accepted.
        completed, failed, cancelled: turns by their outcome.
        live: turns without one: handed back when the runtime closed, or standing on a wait.
        steps: steps that succeeded.
        duplicates: deliveries that were answered and not run.
        kills: times the process was killed, or ended by a failing disk.
        recovered: times a turn was taken back from a process that had died.
        retried: times a turn was run again because it had raised.
        doubts: effects that were cut off, and looked into.
        virtual_s, real_s: how long it took.
        turns_per_virtual_s, turns_per_real_s: turns ended, by either clock.
        seeds_per_real_s: runs, by the real clock.
        queue_delay_p50_s, queue_delay_p90_s, queue_delay_p99_s: virtual time from acceptance to the first start.
        violations: what the oracles found.
    """

    scenario: str
    seeds: int = 0
    hash: str = ""
    sessions: int = 0
    turns: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    live: int = 0
    steps: int = 0
    duplicates: int = 0
    kills: int = 0
    recovered: int = 0
    retried: int = 0
    doubts: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    turns_per_virtual_s: float = 0.0
    turns_per_real_s: float = 0.0
    seeds_per_real_s: float = 0.0
    queue_delay_p50_s: float = 0.0
    queue_delay_p90_s: float = 0.0
    queue_delay_p99_s: float = 0.0
    violations: int = 0


class Counts:
    """What a simulation has seen so far, run after run; `summary` is the sum."""

    def __init__(self, scenario: str) -> None:
        """Start from nothing."""
        self._scenario = scenario
        self._seen: Counter[str] = Counter()
        self._delays_s: list[float] = []
        self._virtual_s = 0.0
        self._digests: list[str] = []

    def add(self, outcome: Outcome, rows: Rows) -> None:
        """Count one run."""
        self._seen.update(seeds=1, kills=outcome.lives - 1)
        self._virtual_s += outcome.virtual_s
        self._digests.append(outcome.digest)
        for session in rows.sessions():
            self._seen["sessions"] += 1
            for turn in rows.turns(session.actor_id):
                state = str(turn.row.state)
                self._seen.update(("turns", state if state in TERMINAL else "live"))
                self._add_edges([edge for _, edge in rows.edges(turn.row.turn_id)])

    def _add_edges(self, edges: Sequence[Edge]) -> None:
        """Count what happened to one turn."""
        started_at: float | None = None
        for edge in edges:
            self._seen[_COUNTED.get(edge.kind, "other edges")] += 1
            if edge.kind == EdgeKind.LEASE_ACQUIRED and started_at is None:
                started_at = edge.at
            if edge.kind == EdgeKind.TURN_REQUEUED:
                detail = decode_detail(edge)
                if isinstance(detail, Requeued):
                    self._seen[_REQUEUED.get(detail.reason, "other edges")] += 1
        if started_at is not None:
            self._delays_s.append(started_at - edges[0].at)

    def summary(self, real_s: float, violations: int = 0) -> Summary:
        """Return the sum.

        Args:
            real_s: how long it took by the real clock.
            violations: what the oracles found.
        """
        seen = self._seen
        ended = sum(seen[str(state)] for state in TERMINAL)
        one = len(self._digests) == 1
        joined = blake2b("".join(self._digests).encode(), digest_size=32).hexdigest()
        return Summary(
            scenario=self._scenario,
            hash=self._digests[0] if one else joined,
            virtual_s=round(self._virtual_s, 3),
            real_s=round(real_s, 2),
            turns_per_virtual_s=_rate(ended, self._virtual_s),
            turns_per_real_s=_rate(ended, real_s),
            seeds_per_real_s=_rate(seen["seeds"], real_s),
            violations=violations,
            queue_delay_p50_s=self._delay_s(50),
            queue_delay_p90_s=self._delay_s(90),
            queue_delay_p99_s=self._delay_s(99),
            **{name: seen[name] for name in _SUMS},
        )

    def _delay_s(self, part: int) -> float:
        """Return the delay that `part` percent of the turns did not exceed (nearest rank)."""
        ordered = sorted(self._delays_s)
        return round(ordered[max(0, -(-len(ordered) * part // 100) - 1)], 3) if ordered else 0.0


_COUNTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        EdgeKind.STEP_SUCCEEDED: "steps",
        EdgeKind.STEP_UNKNOWN: "doubts",
        EdgeKind.DUPLICATE_DROPPED: "duplicates",
    }
)
_REQUEUED: Final[Mapping[str, str]] = MappingProxyType(
    {"recovery": "recovered", "stuck": "recovered", "retry": "retried"}
)
_SUMS: Final = (
    *("seeds", "sessions", "turns", "completed", "failed", "cancelled", "live", "steps", "duplicates", "kills"),
    *("recovered", "retried", "doubts"),
)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds else 0.0
