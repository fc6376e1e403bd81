"""Participants' verbs: what a program says at the door that takes part from outside."""

from collections.abc import Mapping
from typing import Any

import msgspec

from turnkeeper.supervisors.door import Verb
from turnkeeper.supervisors.participants import Participants
from turnkeeper.supervisors.verbs import asked

__all__ = ["participant_verbs"]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Participants.join`."""

    name: str
    connection_id: str
    role: str = ""


class Beat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Participants.beat`."""

    name: str
    connection_id: str
    progress: bool = False


class Leave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Participants.leave`."""

    name: str
    connection_id: str


def participant_verbs(participants: Participants) -> dict[str, Verb]:
    """Return what participants may say, by name. The answer to `join` says how often a beat is expected."""

    async def join(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Join, fields)
        joined = participants.join(said.name, said.connection_id, role=said.role)
        limits = participants.limits
        return {
            "name": joined.name,
            "incarnation": joined.incarnation,
            "silent_s": limits.silent_s,
            "grace_s": limits.grace_s,
        }

    async def beat(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Beat, fields)
        beaten = participants.beat(said.name, said.connection_id, progress=said.progress)
        return {"name": beaten.name, "incarnation": beaten.incarnation}

    async def leave(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Leave, fields)
        participants.leave(said.name, said.connection_id)
        return {"name": said.name}

    return {"join": join, "beat": beat, "leave": leave}
