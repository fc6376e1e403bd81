"""Tools: what users declare as steps, and what the rest may ask of a declared one."""

import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, get_type_hints

import msgspec

from turnkeeper.actors.contract import contract
from turnkeeper.actors.values import decode, encode
from turnkeeper.kernel.errors import ContractViolation
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.step import COUNTED, Effect, OnDoubt
from turnkeeper.kernel.wait import Approval

__all__ = [
    "DidNotHappen",
    "GiveUp",
    "Happened",
    "StepContext",
    "Tool",
    "check_async",
    "check_duration",
    "step_context",
    "step_scope",
    "tool",
]

P = ParamSpec("P")
R = TypeVar("R")


class Happened(msgspec.Struct, frozen=True):
    """What a probe, or a person, found out about an effect in doubt: it happened, with this result."""

    result: Any = None


class GiveUp(msgspec.Struct, frozen=True):
    """What a person says who cannot find out about an effect in doubt: the step raises `EffectInDoubt`."""


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


def check_async(function: object, what: str) -> None:
    """Refuse at declaration what would fail at the first call, or only after the first crash."""
    called = getattr(function, "__call__", None)  # noqa: B004 - an object whose call is async will do
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)):
        msg = f"{what} must be an async function, not {function!r}"
        raise TypeError(msg)


def check_duration(duration_s: float | None, what: str) -> None:
    """Refuse at declaration a limit that nothing could keep.

    Raises:
        ValueError: it is not positive and finite.
    """
    if duration_s is not None and not 0 < duration_s < math.inf:
        msg = f"{what} must be positive and finite, not {duration_s:g}"
        raise ValueError(msg)


class Tool(Generic[P, R]):
    """A declared function: its name, its effect class and its contract, taken from its type hints.

    Calling it calls the plain function; only `turn.call(tool, ...)` records a step.
    """

    __slots__ = (
        "_approved",
        "_arguments",
        "_contract",
        "_result",
        "accepts",
        "call_key",
        "effect",
        "function",
        "name",
        "on_doubt",
        "probe",
        "retry",
        "timeout_s",
        "version",
    )

    def __init__(  # noqa: PLR0913 - the declaration's parts, each by name
        self,
        function: Callable[P, Awaitable[R]],
        *,
        name: str,
        effect: Effect,
        timeout_s: float | None = None,
        on_doubt: OnDoubt | Probe = OnDoubt.ASK,
        retry: Retry | None = None,
        version: str = "",
        accepts: Sequence[str] = (),
    ) -> None:
        """Declare a tool; see `tool`."""
        check_async(function, f"tool {name}")
        check_duration(timeout_s, f"timeout_s of tool {name}")
        if not isinstance(on_doubt, OnDoubt):
            check_async(on_doubt, f"the probe of tool {name}")
        self.function = function
        self.name = name
        self.effect = Effect(effect)  # or a misspelt word would be found at the first call
        self.timeout_s = timeout_s
        self.on_doubt = on_doubt if isinstance(on_doubt, OnDoubt) else OnDoubt.ASK
        self.probe: Probe | None = None if isinstance(on_doubt, OnDoubt) else on_doubt
        self.call_key: str | None = None
        self.retry = retry
        self.version = version
        self.accepts = frozenset(accepts)
        hints = get_type_hints(function, include_extras=True)
        self._arguments = _Arguments(function, name, hints)
        self._result = msgspec.msgpack.Decoder(hints.get("return", Any))
        self._contract: str | None = None
        self._approved: str | None = None

    @property
    def contract(self) -> str:
        """Return what the tool promises: its version, and a hash of its arguments' and its result's types."""
        if self._contract is None:
            self._contract = contract(self.version, self._arguments.type, self._result.type)
        return self._contract

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Call the plain function, outside of any turn.

        Raises:
            ContractViolation: it is `approved`, and this is another call.
        """
        self.check_approved(self._encoded(args, kwargs) if self._approved is not None else b"")
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

    def proposed(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Return a call as a plain value, its arguments as they would be recorded: the subject of `turn.approval`.

        Raises:
            ContractViolation: the arguments do not fit, or cannot be stored.
        """
        return self._proposal(self._encoded(args, kwargs))

    def approved(self, approval: Approval) -> "Tool[P, R]":
        """Return the tool for the approved call alone: another is `ContractViolation`, not recorded and not called."""
        same = copy(self)
        same._approved = approval.digest  # noqa: SLF001 - a copy of ours
        return same

    def check_approved(self, arguments: bytes) -> None:
        """Refuse a call that is not the approved one; of a tool that needs no approval any is.

        Raises:
            ContractViolation: it is another one.
        """
        if self._approved is not None:
            what = f"the call of {self.name}"
            if payload_digest(encode(self._proposal(arguments), what, sys.maxsize)).hex() != self._approved:
                raise ContractViolation(what, "is not the one that was approved")

    def _encoded(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        return encode(self.bind(args, kwargs), f"arguments of {self.name}", sys.maxsize)

    def _proposal(self, arguments: bytes) -> dict[str, Any]:
        return {"tool": self.name, "arguments": decode(arguments, f"arguments of {self.name}")}

    @classmethod
    def untyped(cls, function: Callable[..., Awaitable[R]], name: str) -> "Tool[..., R]":
        """Return a pure tool for a function of `(args, kwargs)` that declares nothing; see `Turn.step`."""
        same = copy(cast("Tool[..., R]", _UNTYPED))
        same.function, same.name = function, name
        same._contract = ""  # noqa: SLF001 - a copy of ours: a plain function promises nothing
        return same

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        """Return the arguments, checked against the type hints.

        Raises:
            ContractViolation: they do not fit; names the tool and the path.
        """
        return self._arguments.bind(args, kwargs)

    def as_recorded(self, bound: msgspec.Struct, arguments: bytes) -> msgspec.Struct:
        """Return the arguments as the record holds them, checked through and through, and nobody else's objects.

        A plain function's are the caller's own: it declares no types to read them by.

        Raises:
            ContractViolation: they do not fit; names the tool and the path.
        """
        return bound if self._contract == "" else self._arguments.decode(arguments)

    def fit_result(self, result: object, bytes_max: int) -> bytes:
        """Return a result that somebody has told, as recorded: also as JSON has it, with texts for what JSON lacks.

        Raises:
            ContractViolation, PayloadTooLarge: it does not fit the return type, or the limit.
        """
        try:
            return self.encode_result(result, bytes_max)[0]
        except ContractViolation:
            try:
                told = msgspec.convert(result, self._result.type, str_keys=True, builtin_types=())
            except (msgspec.ValidationError, RecursionError) as error:
                raise ContractViolation(f"result of {self.name}", str(error)) from error
            return self.encode_result(told, bytes_max)[0]

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

    __slots__ = ("_decoder", "_positional", "_tool", "type")

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
        self.type = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        self._decoder = msgspec.msgpack.Decoder(self.type)

    def decode(self, encoded: bytes) -> msgspec.Struct:
        arguments: msgspec.Struct = decode(encoded, f"arguments of {self._tool}", self._decoder)
        return arguments

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        if len(args) > len(self._positional):
            raise ContractViolation(
                f"arguments of {self._tool}", f"takes {len(self._positional)} positional, got {len(args)}"
            )
        given = dict(zip(self._positional, args, strict=False)) if args else {}
        if args and (twice := given.keys() & kwargs.keys()):
            raise ContractViolation(f"arguments of {self._tool}", f"given twice: {', '.join(sorted(twice))}")
        try:
            return msgspec.convert({**given, **kwargs}, self.type)
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


def tool(  # noqa: PLR0913 - the declaration's parts, each by name
    *misused: object,
    effect: Effect,
    name: str | None = None,
    timeout_s: float | None = None,
    on_doubt: OnDoubt | Probe = OnDoubt.ASK,
    retry: Retry | None = None,
    version: str = "",
    accepts: Sequence[str] = (),
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
        retry: what to do when a call raises, before the step fails: run it again, within the turn. None: never.
        version: recorded with each step, beside a hash of the types; change it when the meaning changes.
        accepts: older versions whose records the tool understands. Others are `ContractChanged` on a replay.

    An effectful tool that raises says that its effect did not happen: with a `retry` of its own it is called again,
    under the same idempotency key; without one the failure is recorded and raised, and no retry of the turn runs it.

    Raises:
        TypeError: the function or the probe is not async, or cannot be recorded by its parameters' names.
    """
    if misused:
        msg = "write @tool(effect=Effect...), with the effect that a second call would have"
        raise TypeError(msg)

    def declare(function: Callable[P, Awaitable[R]]) -> Tool[P, R]:
        return Tool(
            function,
            name=name or function.__name__,
            effect=effect,
            timeout_s=timeout_s,
            on_doubt=on_doubt,
            retry=retry,
            version=version,
            accepts=accepts,
        )

    return declare
