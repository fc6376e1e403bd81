"""Staffs: the supervisors of agents' worker processes, made by the first turn that needs one."""

from collections.abc import Awaitable

from turnkeeper.kernel.supervision.child import ChildSpec, Exited, Staff
from turnkeeper.kernel.supervision.intensity import Exceeded, Intensity
from turnkeeper.supervisors.supervisor import Supervisor

__all__ = ["Staffs"]


class Staffs(Supervisor):
    """One supervisor for each agent that has processes; a worker that falls too often is put away by itself."""

    def start(self, exited: Exited) -> Awaitable[None] | None:
        """Come up empty: what an earlier node's turns have started went with it."""
        self._places.clear()
        return super().start(exited)

    def staff(self, agent_id: str, intensity: Intensity) -> Staff:
        """Return the supervisor of an agent's workers.

        Raises:
            InvalidName: the agent has one already.
        """
        staff = Supervisor(intensity=intensity, exceeded=Exceeded.QUARANTINE, chance=self._chance)
        self.add(ChildSpec(name=agent_id, child=staff))
        return staff
