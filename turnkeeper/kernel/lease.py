"""Leases: the right of one boot to run turns until a deadline, renewed by the node's heartbeat."""

import msgspec

from turnkeeper.kernel.errors import LeaseExpired

__all__ = ["Lease"]


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The right of one boot to run turns until `until` (wall time, s).

    One lease stands for every turn of a boot, so a heartbeat is one write however many turns run.
    """

    boot_id: int
    until: float

    def renewed(self, now: float, lease_s: float) -> "Lease":
        """Return the lease after a beat. A beat never shortens it: a nudge moves no deadline backwards."""
        return Lease(self.boot_id, max(self.until, now + lease_s))

    def expired(self, now: float) -> bool:
        """Say whether the lease has run out."""
        return now >= self.until

    def check(self, turn_id: int, now: float) -> None:
        """Refuse to go on under a lease that has run out.

        Raises:
            LeaseExpired: it has.
        """
        if self.expired(now):
            raise LeaseExpired(turn_id, self.until)
