"""Agents: what users declare as handlers, and which handler a turn belongs to."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from turnkeeper.actors.state import DeclaredState, Migrate, declared_state
from turnkeeper.actors.tool import Tool, check_async, check_duration
from turnkeeper.kernel.arrival import Policy, policy_of
from turnkeeper.kernel.errors import VersionGone
from turnkeeper.kernel.retry import Retry

if TYPE_CHECKING:
    from turnkeeper.actors.node import Node
    from turnkeeper.actors.turn import Turn

__all__ = ["UNSERVED", "Agent", "agent", "newest_of"]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """A declared agent: its name, its handler and its limits. None means the runtime's setting."""

    agent_id: str
    handler: Callable[[Any], Awaitable[Any]]
    tools: Mapping[str, Tool[..., Any]]
    retry: Retry | None = None
    turn_s: float | None = None
    idle_s: float | None = None
    version: str = ""
    adopts: frozenset[str] = frozenset()
    state: DeclaredState | None = None
    arrival: Policy = Policy.QUEUE
    older: Mapping[str, "Agent"] = MappingProxyType({})

    async def handle(self, node: "Node", turn: "Turn") -> Any:  # noqa: ARG002 - for agents that are part of their runtime
        """Run one turn of a runtime, and return its deliverable."""
        return await self.handler(turn)

    def started_under(self, turn_id: int, version: str, *, steps: int) -> "Agent":
        """Return who finishes a turn: the handler that it was started under, or one that adopts its turns.

        A turn without a recorded step has done nothing yet, so any version may begin it.

        Raises:
            VersionGone: neither was given to the runtime.
        """
        if version in self.older:
            return self.older[version]
        if version == self.version or version in self.adopts or not steps:
            return self
        given = ", ".join(repr(known) for known in (*self.older, self.version))
        raise VersionGone(turn_id, self.agent_id, version, given)


async def _unserved(_turn: "Turn") -> NoReturn:
    raise NotImplementedError


UNSERVED: Final = Agent(agent_id="", handler=_unserved, tools=MappingProxyType({}))
"""Stands for an agent that the runtime was not given: its turns can be answered and ended, and none is started."""


def agent(  # noqa: PLR0913 - a declaration: each is said by its name
    agent_id: str,
    *,
    tools: Sequence[Tool[..., Any]] = (),
    retry: Retry | None = None,
    turn_s: float | None = None,
    idle_s: float | None = None,
    version: str = "",
    adopts: Sequence[str] = (),
    state: Any = None,
    state_version: int = 1,
    migrate: Migrate | None = None,
    arrival: str = Policy.QUEUE,
) -> Callable[[Callable[["Turn"], Awaitable[Any]]], Agent]:
    """Declare an async function of a `Turn` as an agent's handler.

    The handler may run more than once for a turn: after a crash, a retry or a wait it starts from its top, and
    recorded steps answer from the record. So everything it does to the world belongs into a step.

    Args:
        agent_id: the agent's name in addresses.
        tools: offered to the handler as `turn.tools` by name, for models that choose by name.
        retry: what to do with a turn that raised; None means the runtime's settings.
        turn_s: wall time one run of a turn may take.
        idle_s: how long one run may go without progress. Progress is whatever is recorded of a step (that it is called,
            how it ended), the pauses of its retries, and `turn.heartbeat()`. A run that is stuck for longer is
            cancelled and taken back as after a crash: it counts against `recoveries_max`, and its effects under way are
            in doubt. So allow for the slowest answer that you would still wait for. Without a limit, the default, a
            turn that awaits a slow model is not touched before `turn_s`, for however many lease times it waits: that it
            is alive is the runtime's to say, and silence no reason to end it. 0 means no limit; None the runtime's
            setting.
        version: of the handler, recorded when a turn starts. A turn finishes under the version that it started under:
            give the runtime both, the newest last. Without it, it fails with `VersionGone`.
        adopts: older versions whose turns this handler can finish.
        state: type of `turn.state`, what each session's agent remembers between its turns: a msgspec struct or a
            dataclass whose fields all have defaults, `dict[str, int]`, and the like. Made without arguments it is the
            first state.
        state_version: of that type, from 1; stored with each state.
        migrate: `migrate(version, value)` is called with a state that was stored under another version, as plain data
            (a dict for a struct), and returns one that fits the type. It must not change anything else.
        arrival: what becomes of a message that arrives while a turn of the session's agent is live, unless the message
            says something else: queue, reject, coalesce, interrupt or steer; see docs/arriving.md.

    Raises:
        ContractViolation: there is no such arrival.
        TypeError: the handler is not async, the name is missing, or the state cannot be stored or made.
    """
    if not isinstance(agent_id, str):
        msg = 'write @agent("name"), with the name the agent has in addresses'  # type: ignore[unreachable]
        raise TypeError(msg)
    policy = policy_of(arrival)

    def declare(handler: Callable[["Turn"], Awaitable[Any]]) -> Agent:
        check_async(handler, f"the handler of agent {agent_id}")
        check_duration(turn_s, f"turn_s of agent {agent_id}")
        check_duration(idle_s or None, f"idle_s of agent {agent_id}")
        by_name = MappingProxyType({offered.name: offered for offered in tools})
        return Agent(
            agent_id=agent_id,
            handler=handler,
            tools=by_name,
            retry=retry,
            turn_s=turn_s,
            idle_s=idle_s,
            version=version,
            adopts=frozenset(adopts),
            arrival=policy,
            state=declared_state(agent_id, state, state_version, migrate),
        )

    return declare


def newest_of(agents: Sequence[Agent]) -> dict[str, Agent]:
    """Return agents by name. Of several versions the last one is the agent, and holds the older ones.

    Raises:
        ValueError: two have one name and one version.
    """
    found: dict[str, Agent] = {}
    for one in agents:
        before = found.get(one.agent_id)
        older = {**before.older, before.version: before} if before is not None else {}
        if one.version in older:
            msg = f"two agents have one name: {one.agent_id!r}, version {one.version!r}"
            raise ValueError(msg)
        found[one.agent_id] = msgspec.structs.replace(one, older=MappingProxyType(older))
    return found
