"""State: what an agent remembers between turns, as its handler has it, and what of that is committed."""

import inspect
from collections.abc import Callable
from typing import Any, Final

import msgspec

from turnkeeper.actors.values import decode, encode
from turnkeeper.kernel.errors import ContractViolation
from turnkeeper.kernel.records import StateSet
from turnkeeper.kernel.state import state_set
from turnkeeper.kernel.turn import TurnRow

__all__ = ["DeclaredState", "Migrate", "RunState", "declared_state"]

Migrate = Callable[[int, Any], Any]
"""Brings a state forward: takes the version it was stored under and its plain value, returns one that fits the type."""

_FIRST_BYTES_MAX: Final = 1 << 20
"""Of a state that nothing has been put into."""


class DeclaredState:
    """What an agent declares of its state: its type, its version, and how one of another version becomes this one."""

    __slots__ = ("_decoder", "_migrate", "_type", "name", "version")

    def __init__(self, agent_id: str, type_: Any, version: int, migrate: Migrate | None) -> None:
        """Declare it.

        Args:
            agent_id: whose it is.
            type_: what msgspec can encode and decode; called without arguments it makes the first state.
            version: of the type, from 1.
            migrate: what brings states of other versions forward.

        Raises:
            TypeError: the type cannot be stored, or not be made without arguments; the version is no version, or
                `migrate` is async.
        """
        self.name = f"the state of {agent_id}"
        self.version = version
        self._type = type_
        self._migrate = migrate
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            msg = f"state_version of agent {agent_id} must be a number from 1, not {version!r}"
            raise TypeError(msg)
        if inspect.iscoroutinefunction(migrate):
            msg = f"migrate of agent {agent_id} must be a plain function: a stored value comes in, a new one goes out"
            raise TypeError(msg)
        try:
            self._decoder = msgspec.msgpack.Decoder(type_)
            self.fit(self.first(), _FIRST_BYTES_MAX)
        except (TypeError, ContractViolation) as error:
            msg = f"{self.name} must be of a type that msgspec knows, whose parts all have defaults: {error}"
            raise TypeError(msg) from error

    def first(self) -> Any:
        """Return the state of an actor that remembers nothing yet."""
        return self._type()

    def fit(self, value: object, bytes_max: int) -> tuple[bytes, Any]:
        """Return a state as stored, and as it is read again.

        Raises:
            ContractViolation, PayloadTooLarge: it does not fit its type, or the limit.
        """
        body = encode(value, self.name, bytes_max)
        return body, decode(body, self.name, self._decoder)

    def read(self, row: StateSet, bytes_max: int) -> Any:
        """Return a committed state, brought forward if it was stored under another version.

        Raises:
            ContractViolation, PayloadTooLarge: it does not fit its type, or nothing brings it forward.
            Exception: whatever `migrate` raises.
        """
        if row.version == self.version:
            return decode(row.body, self.name, self._decoder)
        if self._migrate is None:
            reason = f"was stored under version {row.version}, the agent declares {self.version} and no migrate="
            raise ContractViolation(self.name, reason)
        return self.fit(self._migrate(row.version, decode(row.body, self.name)), bytes_max)[1]


def declared_state(agent_id: str, type_: Any, version: int, migrate: Migrate | None) -> DeclaredState | None:
    """Return what an agent declares of its state; None where it declares none.

    Raises:
        TypeError: it cannot be kept; see `DeclaredState`. Or there is no type, and something is said about it.
    """
    if type_ is not None:
        return DeclaredState(agent_id, type_, version, migrate)
    if version != 1 or migrate is not None:
        msg = f"agent {agent_id} declares no state; write state=..., with its type, beside state_version and migrate"
        raise TypeError(msg)
    return None


class RunState:
    """The state in one run of a turn: as committed, until the handler changes it or puts another in its place.

    What the handler does not ask for is neither decoded nor written.
    """

    __slots__ = ("_asked", "_body", "_bytes_max", "_declared", "_row", "_value")

    def __init__(self, declared: DeclaredState, row: StateSet | None, bytes_max: int) -> None:
        """Begin with what is committed, None where nothing is; `bytes_max` is the limit of what is written."""
        self._declared = declared
        self._row = row
        self._bytes_max = bytes_max
        self._asked = False
        self._value: Any = None
        self._body: bytes | None = None

    @property
    def value(self) -> Any:
        """Return the state as it is now.

        Raises:
            ContractViolation, PayloadTooLarge: what is stored does not fit the agent's type, or is not brought forward.
            Exception: whatever the agent's `migrate` raises.
        """
        if not self._asked:
            row = self._row
            self.value = self._declared.first() if row is None else self._declared.read(row, self._bytes_max)
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value, self._asked = value, True

    def close(self) -> None:
        """Take the state as the handler has left it.

        Raises:
            ContractViolation, PayloadTooLarge: it does not fit its type, or the limit.
        """
        if self._asked:
            self._body, _ = self._declared.fit(self._value, self._bytes_max)

    def records(self, row: TurnRow, at: float) -> list[StateSet]:
        """Return what is to be committed with the turn's end: nothing where the state is what is stored.

        Raises:
            ContractViolation, PayloadTooLarge: as `close`, for a handler that was cut off and did not return.
        """
        if self._body is None:
            self.close()
        before, version = self._row, self._declared.version
        if self._body is None or (before is not None and (before.version, before.body) == (version, self._body)):
            return []
        return [state_set(row.actor_id, version, self._body, turn_id=row.turn_id, at=at)]
