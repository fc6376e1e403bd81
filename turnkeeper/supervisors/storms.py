"""Storms: an agent whose turns end one after another without getting on is paused until somebody resumes it."""

from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import TurnkeeperError, VerbRefused
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import Note
from turnkeeper.supervisors.chronicle import Chronicle
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.tending import AGENTS

__all__ = ["BY", "Storms"]

BY = "storm guard"
"""Who says it, in the event that a pause leaves."""


class Storms:
    """What the runtime does about storms: `node.on_storm` is its `pause`."""

    __slots__ = ("_chronicle", "_node", "_reception")

    def __init__(self, node: Node, reception: Reception, chronicle: Chronicle) -> None:
        """Work for a node."""
        self._node = node
        self._reception = reception
        self._chronicle = chronicle

    def pause(self, agent_id: str, error: str) -> None:
        """Pause an agent as a person would: what runs goes on, what comes in waits, and resuming it ends the pause.

        No turn starts from now on, also where the pause cannot be recorded; it then holds in this runtime alone.
        """
        node, settings = self._node, self._node.settings
        if node.closing:
            return
        reason = f"{settings.storm_ends_max} turns ended within {settings.storm_s:g} s without progress, last: {error}"
        node.log.error(
            "agent.storm", agent_id=agent_id, ends=settings.storm_ends_max, within_s=settings.storm_s, error=error
        )
        self._chronicle.hold(f"{AGENTS}/{agent_id}", Desired.PAUSED)
        self._reception.want(agent_id, Desired.PAUSED)
        node.start(self._record(agent_id, Note(reason, error=error, by=BY)))

    async def _record(self, agent_id: str, note: Note) -> None:
        try:
            desired = await self._chronicle.say(f"{AGENTS}/{agent_id}", Verb.PAUSE, note)
        except VerbRefused:  # somebody has stopped it meanwhile: that is more
            return
        except TurnkeeperError as error:
            self._node.log.warning("agent.storm_not_recorded", agent_id=agent_id, error=str(error))
            return
        self._reception.want(agent_id, desired)  # again: a verb that was said meanwhile came first
