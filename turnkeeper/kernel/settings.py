"""Settings: every limit and duration with its default, in one frozen record."""

import math

import msgspec

from turnkeeper.kernel.retry import Retry

__all__ = ["Settings"]


_MAY_BE_ZERO = frozenset(
    {"handoff_cooldown_s", "retries_max", "idle_s", "retention_s", "lag_s", "storm_ends_max", "sweep_s"}
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and durations of a runtime. Seconds end in `_s`, sizes in `_bytes`, counts in `_max`.

    Args:
        synchronous: SQLite's setting. `FULL` survives power cuts; `NORMAL` survives kill -9 only; `OFF` is for tests.
        lease_s: how long a boot's right to run turns lasts without a heartbeat (5 to 300).
        turn_s: wall time a turn may run; what it spends suspended does not count.
        idle_s: how long a run of a turn may go without progress before it is taken back; 0 means no limit.
            `@agent(idle_s=...)` says what progress is.
        insist_s: how long a handler that swallows its cancellation is cancelled again, every second, before its turn is
            taken from it.
        approval_s: how long people are waited for where nothing else is said: for an approval, for the answer to an
            escalation, and for `Runtime.resolve` of a step in doubt, before its turn fails.
        wait_s: how long a turn stands on a signal, or on another turn, where it says nothing else.
        suspend_s: how long a run may do nothing but wait before its turn is suspended, and its task ends.
        steps_max: steps a turn may ask for. Waits are steps, too: `turn.gather(timeout_s=...)` takes one for its time,
            and `turn.approval(at_deadline="escalate")` takes two.
        depth_max: how deep child turns may be nested.
        children_max: child turns that one turn may wait for at once.
        handoffs_max: how often turns of one session may be handed on.
        handoff_cooldown_s: how long after one agent has handed a turn to another it may do so again, in one session.
        signals_max: signals to one actor that no turn has taken; one more is refused.
        retries_max: how often a turn that raised is run again.
        recoveries_max: how often a turn is taken back, from a process that died under it or from a run that was stuck,
            before it is quarantined.
        retry_base_s: backoff before the first retry; it doubles each time, with jitter.
        retry_cap_s: the longest backoff.
        mailbox_len_max: turns that wait for one actor, and messages that joined a turn and that it has not had yet; one
            more is refused before it is accepted.
        commits_waiting_max: commit points that wait for the writer; past it new work is refused.
        batch_max: commit points in one transaction (measured: 4,096 stall the loop for 20 ms, 1,024 do not).
        idle_agents_max: idle session agents kept in memory; the longest idle leaves first.
        payload_bytes_max: size of one stored value: an inbound, a step's arguments or result, a deliverable.
        idempotency_s: how long a key answers for its receipt.
        retention_s: how long ago a turn must have ended to be pruned, with its history; 0 keeps everything.
        shutdown_s: how long running turns may go on after closing began.
        participant_silent_s: since the last beat of a participant outside, until it is suspect: beats come every 30 s,
            and one that is lost is borne.
        participant_grace_s: from then, until it is gone.
        storm_ends_max: turns of one agent that may end within `storm_s` without progress of any of its turns: with the
            last of them the agent is paused, until somebody resumes it. Progress is what puts off `idle_s`, and a turn
            that completes. 0 pauses nothing.
        storm_s: how long such an end is counted.
        lag_s: for how long something may block the event loop before it is named in the log; 0 looks for nothing.
            Under a clock of the application's own, virtual time say, nothing is looked for either.
        sweep_s: how often a page of the live turns is looked through for one that a bug has left to nobody; 0 means
            never.
    """

    synchronous: str = "FULL"
    lease_s: float = 45.0
    turn_s: float = 900.0
    idle_s: float = 0.0
    insist_s: float = 10.0
    approval_s: float = 86_400.0
    wait_s: float = 86_400.0
    suspend_s: float = 0.05
    steps_max: int = 64
    depth_max: int = 20
    children_max: int = 100
    handoffs_max: int = 5
    handoff_cooldown_s: float = 120.0
    signals_max: int = 1_000
    retries_max: int = 3
    recoveries_max: int = 100
    retry_base_s: float = 0.1
    retry_cap_s: float = 30.0
    mailbox_len_max: int = 1_000
    commits_waiting_max: int = 65_536
    batch_max: int = 1_024
    idle_agents_max: int = 10_000
    payload_bytes_max: int = 8 * 1024 * 1024
    idempotency_s: float = 86_400.0
    retention_s: float = 0.0
    shutdown_s: float = 5.0
    participant_silent_s: float = 60.0
    participant_grace_s: float = 30.0
    storm_ends_max: int = 5
    storm_s: float = 30.0
    lag_s: float = 1.0
    sweep_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that no runtime could keep.

        Raises:
            ValueError: a value is outside its range; the message names it.
        """
        if self.synchronous not in {"OFF", "NORMAL", "FULL", "EXTRA"}:
            msg = f"synchronous must be OFF, NORMAL, FULL or EXTRA, not {self.synchronous!r}"
            raise ValueError(msg)
        if not 5 <= self.lease_s <= 300:  # noqa: PLR2004 - the contract's range, said here once
            msg = f"lease_s must be between 5 and 300, not {self.lease_s:g}"
            raise ValueError(msg)
        for name in self.__struct_fields__:
            value = getattr(self, name)
            least = 0 if name in _MAY_BE_ZERO else math.ulp(0.0)
            if isinstance(value, int | float) and not least <= value < math.inf:
                msg = f"{name} must be {'zero or more' if least == 0 else 'positive'} and finite, not {value:g}"
                raise ValueError(msg)

    @property
    def beat_s(self) -> float:
        """Return the time between two heartbeats of a node: a third of its lease."""
        return self.lease_s / 3

    @property
    def retry(self) -> Retry:
        """Return the policy for turns of agents that declare none."""
        return Retry(retries_max=self.retries_max, base_s=self.retry_base_s, cap_s=self.retry_cap_s)

    def backoff_s(self, failures: int, jitter: float) -> float:
        """Return the pause before retry number `failures` (from 1); `jitter` in [0, 1) takes away up to half."""
        return self.retry.pause_s(failures, jitter)
