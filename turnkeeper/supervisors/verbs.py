"""Verbs: what a running runtime can be said to do from outside, each a request's fields in and plain data out."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec

from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.tool import DidNotHappen, GiveUp, Happened
from turnkeeper.actors.waiting import Finding
from turnkeeper.kernel.errors import ContractViolation
from turnkeeper.kernel.lookback.asking import place_of
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.desired import Verb as Said
from turnkeeper.kernel.supervision.view import ChildView
from turnkeeper.kernel.wait import Outcome
from turnkeeper.supervisors.door import Verb
from turnkeeper.supervisors.knock import LINE_BYTES_MAX

__all__ = ["asked", "verbs"]

_TREE_BYTES_MAX: Final = LINE_BYTES_MAX // 2
"""Of a tree as it is answered: some 2,000 children, more than anybody reads."""

_CHILDREN_MAX: Final = 1_000
"""Shown of one supervisor's children; fewer, where the whole tree would be too long then."""


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


class Approve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.approve`."""

    token: str
    by: str
    reason: str = ""
    digest: str | None = None


class Deny(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.deny`."""

    token: str
    by: str
    reason: str = ""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.answer`."""

    token: str
    value: Any
    by: str
    reason: str = ""


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.signal`."""

    session_id: str
    agent_id: str
    name: str
    payload: Any = None
    key: str | None = None
    tenant: str = ""


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.cancel`."""

    turn_id: int
    by: str = ""
    reason: str = ""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.tree`."""


class Say(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for `Runtime.say`; `word` is its verb."""

    path: str
    word: Said
    reason: str = ""
    by: str = ""


class _Runtime(Protocol):
    """What the verbs need of a runtime: parts of `Answering`, of `Operation`, and of `Tending`."""

    async def resolve(self, turn_id: int, finding: Finding, *, token: str) -> None: ...
    async def fork(self, turn_id: int, *, from_step: int, key: str | None = None) -> Receipt: ...
    async def effects_behind(self, turn_id: int, *, from_step: int) -> list[str]: ...
    async def prune(self, *, older_than_s: float) -> int: ...
    async def approve(self, token: str, *, by: str, reason: str = "", digest: str | None = None) -> None: ...
    async def deny(self, token: str, *, by: str, reason: str = "") -> None: ...
    async def answer(self, token: str, value: Any, *, by: str, reason: str = "") -> None: ...
    async def signal(
        self, session_id: str, agent_id: str, name: str, payload: Any, *, key: str | None = None, tenant: str = ""
    ) -> bool: ...
    async def cancel(self, turn_id: int, *, by: str = "", reason: str = "") -> Result: ...
    def tree(self) -> ChildView: ...
    def desired(self, path: str) -> Desired: ...
    async def say(self, path: str, verb: Said, reason: str, *, by: str) -> Desired: ...


R = TypeVar("R")


def verbs(runtime: _Runtime) -> dict[str, Verb]:
    """Return what may be said of a runtime, by name."""

    async def resolve(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Resolve, fields)
        await runtime.resolve(said.turn_id, said.told, token=said.token)
        return {"turn_id": said.turn_id, "finding": said.finding}

    async def fork(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Fork, fields)
        again = await runtime.effects_behind(said.turn_id, from_step=said.from_step)
        receipt = await runtime.fork(said.turn_id, from_step=said.from_step, key=said.key)
        return {
            "turn_id": receipt.turn_id,
            "key": receipt.key,
            "duplicate": receipt.duplicate,
            "forked_from": said.turn_id,
            "steps_taken": said.from_step,
            "again": again,
        }

    async def prune(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"pruned": await runtime.prune(older_than_s=asked(Prune, fields).older_than_s)}

    async def tree(fields: Mapping[str, Any]) -> dict[str, Any]:
        asked(Tree, fields)
        return _fitting(runtime.tree())

    async def say(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Say, fields)
        before = runtime.desired(said.path)
        desired = await runtime.say(said.path, said.word, said.reason, by=said.by)
        return {"path": said.path, "desired": desired, "changed": desired != before}

    return {"resolve": resolve, "fork": fork, "prune": prune, "tree": tree, "say": say, **_answering(runtime)}


def _answering(runtime: _Runtime) -> dict[str, Verb]:
    """Return what may be told to turns."""

    async def approve(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Approve, fields)
        await runtime.approve(said.token, by=said.by, reason=said.reason, digest=said.digest)
        return _told(said.token, Outcome.APPROVED, said.by)

    async def deny(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Deny, fields)
        await runtime.deny(said.token, by=said.by, reason=said.reason)
        return _told(said.token, Outcome.DENIED, said.by)

    async def answer(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Answer, fields)
        await runtime.answer(said.token, said.value, by=said.by, reason=said.reason)
        return _told(said.token, Outcome.ANSWERED, said.by)

    async def signal(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Signal, fields)
        to = said.session_id, said.agent_id, said.name, said.payload
        return {"name": said.name, "new": await runtime.signal(*to, key=said.key, tenant=said.tenant)}

    async def cancel(fields: Mapping[str, Any]) -> dict[str, Any]:
        said = asked(Cancel, fields)
        ended = await runtime.cancel(said.turn_id, by=said.by, reason=said.reason)
        why = ended.failure.message if ended.failure is not None else ""
        return {"turn_id": ended.turn_id, "outcome": ended.outcome, "at": ended.at, "why": why}

    return {"approve": approve, "deny": deny, "answer": answer, "signal": signal, "cancel": cancel}


def _told(token: str, outcome: Outcome, by: str) -> dict[str, Any]:
    turn_id, _ = place_of(token) or (0, 0)
    return {"turn_id": turn_id, "outcome": outcome, "by": by}


def _fitting(view: ChildView) -> dict[str, Any]:
    """Return a tree as plain data that fits a line; `left_out` counts the children that are not shown."""
    children_max = _CHILDREN_MAX
    while len(msgspec.json.encode(shown := _shown(view, children_max))) > _TREE_BYTES_MAX and children_max:
        children_max //= 2
    return shown


def _shown(view: ChildView, children_max: int) -> dict[str, Any]:
    children = [_shown(child, children_max) for child in view.children[:children_max]]
    facts = {name: msgspec.to_builtins(getattr(view, name)) for name in view.__struct_fields__ if name != "children"}
    left_out = facts.get("left_out", 0) + len(view.children) - len(children)
    return facts | {"left_out": left_out, "children": children}


def asked(request: type[R], fields: Mapping[str, Any]) -> R:
    """Return a request's fields as what its verb takes.

    Raises:
        ContractViolation: they are not that; the message names what is wrong.
    """
    try:
        return msgspec.convert(fields, request)
    except msgspec.ValidationError as error:
        raise ContractViolation(f"the request to {request.__name__.lower()}", str(error)) from error
