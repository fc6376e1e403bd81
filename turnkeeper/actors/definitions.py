"""Definitions: what users declare, tools and agents, before anything runs."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast, get_type_hints

import msgspec

from turnkeeper.actors.values import decode, encode
from turnkeeper.kernel.errors import ContractViolation
from turnkeeper.kernel.step import COUNTED, Effect, OnDoubt

if TYPE_CHECKING:
    from turnkeeper.actors.turn import Turn

__all__ = ["Agent", "DidNotHappen", "Happened", "StepContext", "Tool", "agent", "step_context", "step_scope", "tool"]

P = ParamSpec("P")
R = TypeVar("R")


class Happened(msgspec.Struct, frozen=True):
    """What a probe, or a person, found out about an effect in doubt: it happened, with this result."""

    result: Any = None


class DidNotHappen(msgspec.Struct, frozen=True):
    """What a probe, or a person, found out about an effect in doubt: it did not happen; it may be run."""


Probe = Callable[..., Awaitable[Happened | DidNotHappen]]


class StepContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a running tool may know of the step it runs in; see `step_context`.

    `idempotency_key` is the same on every attempt of this step and different in every other step; it is empty
    for pure tools.
    """

    turn_id: int
    session_id: str
    agent_id: str
    attempt: int
    step: str
    idempotency_key: str


_context: Final[ContextVar[StepContext]] = ContextVar("turnkeeper_step")


def step_context() -> StepContext:
    """Return the step that the calling tool or probe runs in.

    Raises:
        LookupError: no tool of a turn is running here.
    """
    return _context.get()


class step_scope:  # noqa: N801 - used like a function; a generator here would cost 1.5 us a step
    """Let `step_context` answer with this step, for as long as its tool or probe runs."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: StepContext) -> None:
        """Take the step's context."""
        self._context = context

    def __enter__(self) -> None:
        """Set it."""
        self._token = _context.set(self._context)

    def __exit__(self, *_: object) -> None:
        """Set back what was there before."""
        _context.reset(self._token)


def _check_async(function: object, what: str) -> None:
    """Refuse at declaration what would fail at the first call, or only after the first crash."""
    called = getattr(function, "__call__", None)  # noqa: B004 - an object whose call is async will do
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)):
        msg = f"{what} must be an async function, not {function!r}"
        raise TypeError(msg)


class Tool(Generic[P, R]):
    """A declared function: its name, its effect class and its contract, taken from its type hints.

    Calling it calls the plain function; only `turn.call(tool, ...)` records a step.
    """

    __slots__ = ("_arguments", "_result", "call_key", "effect", "function", "name", "on_doubt", "probe", "timeout_s")

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        *,
        name: str,
        effect: Effect,
        timeout_s: float | None = None,
        on_doubt: OnDoubt | Probe = OnDoubt.ASK,
    ) -> None:
        """Declare a tool; see `tool`."""
        _check_async(function, f"tool {name}")
        if not isinstance(on_doubt, OnDoubt):
            _check_async(on_doubt, f"the probe of tool {name}")
        self.function = function
        self.name = name
        self.effect = effect
        self.timeout_s = timeout_s
        self.on_doubt = on_doubt if isinstance(on_doubt, OnDoubt) else OnDoubt.ASK
        self.probe: Probe | None = None if isinstance(on_doubt, OnDoubt) else on_doubt
        self.call_key: str | None = None
        hints = get_type_hints(function)
        self._arguments = _Arguments(function, name, hints)
        self._result = msgspec.msgpack.Decoder(hints.get("return", Any))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Call the plain function, outside of any turn."""
        return self.function(*args, **kwargs)

    def keyed(self, call_key: str) -> "Tool[P, R]":
        """Return the tool under a call key of your own, for calls whose order may change between attempts.

        Without one, a step's identity is the n-th call of its name in the turn. A key names one step: asked for
        again in the same turn, it is answered from the record.

        Raises:
            ValueError: the key is empty, or begins like the keys of counted calls.
        """
        if not call_key or call_key.startswith(COUNTED):
            msg = f"a call key of {self.name} must not be empty or begin with {COUNTED!r}, got {call_key!r}"
            raise ValueError(msg)
        same = copy(self)
        same.call_key = call_key
        return same

    @classmethod
    def untyped(cls, function: Callable[..., Awaitable[R]], name: str) -> "Tool[..., R]":
        """Return a pure tool for a function of `(args, kwargs)` that declares nothing; see `Turn.step`."""
        same = copy(cast("Tool[..., R]", _UNTYPED))
        same.function, same.name = function, name
        return same

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        """Return the arguments, checked against the type hints.

        Raises:
            ContractViolation: they do not fit; names the tool and the path.
        """
        return self._arguments.bind(args, kwargs)

    def encode_result(self, result: object, bytes_max: int) -> tuple[bytes, R]:
        """Return a result as recorded and as a rerun will see it, so that the first run sees the same.

        Raises:
            ContractViolation, PayloadTooLarge: it does not fit the return type, or the limit.
        """
        encoded = encode(result, f"result of {self.name}", bytes_max)
        return encoded, self.decode_result(encoded)

    def decode_result(self, encoded: bytes) -> R:
        """Return a recorded result.

        Raises:
            ContractViolation: the return type has changed since it was recorded.
        """
        value: R = decode(encoded, f"result of {self.name}", self._result)
        return value


class _Arguments:
    """A function's parameters as a type: what binds, checks and names the arguments of a call."""

    __slots__ = ("_positional", "_tool", "_type")

    def __init__(self, function: Callable[..., Any], tool: str, hints: Mapping[str, Any]) -> None:
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
                msg = f"tool {tool}: parameter {parameter} has no name a record could hold; use plain parameters"
                raise TypeError(msg)
            hint = hints.get(parameter.name, Any)
            default = parameter.default
            fields.append(
                (parameter.name, hint) if default is parameter.empty else (parameter.name, hint, _default(default))
            )
        self._tool = tool
        self._positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self._type = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        if len(args) > len(self._positional):
            raise ContractViolation(
                f"arguments of {self._tool}", f"takes {len(self._positional)} positional, got {len(args)}"
            )
        given = dict(zip(self._positional, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise ContractViolation(f"arguments of {self._tool}", f"given twice: {', '.join(sorted(twice))}")
        try:
            return msgspec.convert({**given, **kwargs}, self._type)
        except (msgspec.ValidationError, RecursionError) as error:
            raise ContractViolation(f"arguments of {self._tool}", str(error)) from error


async def _untyped(args: Any, kwargs: Any) -> Any:
    return args, kwargs


_UNTYPED: Final = Tool(_untyped, name="step", effect=Effect.PURE)


def _default(value: object) -> Any:
    """Return a parameter's default as a field's; a mutable one is made anew for each call."""
    if isinstance(value, list | dict | set):
        return msgspec.field(default_factory=value.copy)
    return value


def tool(
    *misused: object,
    effect: Effect,
    name: str | None = None,
    timeout_s: float | None = None,
    on_doubt: OnDoubt | Probe = OnDoubt.ASK,
) -> Callable[[Callable[P, Awaitable[R]]], Tool[P, R]]:
    """Declare an async function as a tool.

    Args:
        *misused: nothing; `@tool` without its parentheses is refused with what to write.
        effect: what running it twice would do. There is no default: only its author knows.
        name: its name in records; the function's own where not given. Renaming it orphans its records.
        timeout_s: how long one call may take. A timed-out effectful call is in doubt, not failed.
        on_doubt: what to do when a crash or a timeout cut an effectful call off: ask (suspend the turn until
            `Runtime.resolve`), fail, retry, or a probe: an async function that gets the same arguments, finds out,
            and returns `Happened(result)` or `DidNotHappen()`.

    An effectful tool that raises says that its effect did not happen: the failure is recorded and raised, and no
    retry of the turn runs it again.

    Raises:
        TypeError: the function or the probe is not async, or cannot be recorded by its parameters' names.
    """
    if misused:
        msg = "write @tool(effect=Effect...), with the effect that a second call would have"
        raise TypeError(msg)

    def declare(function: Callable[P, Awaitable[R]]) -> Tool[P, R]:
        return Tool(function, name=name or function.__name__, effect=effect, timeout_s=timeout_s, on_doubt=on_doubt)

    return declare


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """A declared agent: its name, its handler and its limits. None means the runtime's setting."""

    agent_id: str
    handler: Callable[["Turn"], Awaitable[Any]]
    tools: Mapping[str, Tool[..., Any]]
    retries_max: int | None = None
    turn_s: float | None = None


def agent(
    agent_id: str,
    *,
    tools: Sequence[Tool[..., Any]] = (),
    retries_max: int | None = None,
    turn_s: float | None = None,
) -> Callable[[Callable[["Turn"], Awaitable[Any]]], Agent]:
    """Declare an async function of a `Turn` as an agent's handler.

    The handler may run more than once for a turn: after a crash, a retry or a wait it starts from its top, and
    recorded steps answer from the record. So everything it does to the world belongs into a step.

    Args:
        agent_id: the agent's name in addresses.
        tools: offered to the handler as `turn.tools` by name, for models that choose by name.
        retries_max: how often a turn that raised is run again.
        turn_s: wall time one run of a turn may take.

    Raises:
        TypeError: the handler is not async, or the name is missing.
    """
    if not isinstance(agent_id, str):
        msg = 'write @agent("name"), with the name the agent has in addresses'  # type: ignore[unreachable]
        raise TypeError(msg)

    def declare(handler: Callable[["Turn"], Awaitable[Any]]) -> Agent:
        _check_async(handler, f"the handler of agent {agent_id}")
        by_name = MappingProxyType({offered.name: offered for offered in tools})
        return Agent(agent_id=agent_id, handler=handler, tools=by_name, retries_max=retries_max, turn_s=turn_s)

    return declare
