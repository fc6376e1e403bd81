"""Verbs: what a running runtime can be asked to do from outside, each a request's fields in and plain data out."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from turnkeeper.actors.tool import DidNotHappen, GiveUp, Happened
from turnkeeper.actors.waiting import Finding
from turnkeeper.kernel.errors import ContractViolation
from turnkeeper.supervisors.door import Verb
from turnkeeper.supervisors.operation import Operation

__all__ = ["verbs"]


class Resolve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.resolve`."""

    turn_id: int
    token: str
    finding: Literal["happened", "did_not_happen", "given_up"]
    result: Any = None

    @property
    def told(self) -> Finding:
        """Return the finding in the library's own words."""
        match self.finding:
            case "happened":
                return Happened(self.result)
            case "did_not_happen":
                return DidNotHappen()
            case "given_up":
                return GiveUp()


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.fork`."""

    turn_id: int
    from_step: int
    key: str | None = None


class Prune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.prune`."""

    older_than_s: float


R = TypeVar("R")


def verbs(runtime: Operation) -> dict[str, Verb]:
    """Return what may be asked of a runtime, by name."""

    async def resolve(fields: Mapping[str, Any]) -> dict[str, Any]:
        asked = _asked(Resolve, fields)
        await runtime.resolve(asked.turn_id, asked.told, token=asked.token)
        return {"turn_id": asked.turn_id, "finding": asked.finding}

    async def fork(fields: Mapping[str, Any]) -> dict[str, Any]:
        asked = _asked(Fork, fields)
        again = await runtime.effects_behind(asked.turn_id, from_step=asked.from_step)
        receipt = await runtime.fork(asked.turn_id, from_step=asked.from_step, key=asked.key)
        return {
            "turn_id": receipt.turn_id,
            "key": receipt.key,
            "duplicate": receipt.duplicate,
            "forked_from": asked.turn_id,
            "steps_taken": asked.from_step,
            "again": again,
        }

    async def prune(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"pruned": await runtime.prune(older_than_s=_asked(Prune, fields).older_than_s)}

    return {"resolve": resolve, "fork": fork, "prune": prune}


def _asked(request: type[R], fields: Mapping[str, Any]) -> R:
    try:
        return msgspec.convert(fields, request)
    except msgspec.ValidationError as error:
        raise ContractViolation(f"the request to {request.__name__.lower()}", str(error)) from error
