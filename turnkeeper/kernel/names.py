"""Names: how an actor is addressed, and how a step is told from its neighbours."""

from typing import NamedTuple

__all__ = ["Address", "StepName"]


class Address(NamedTuple):
    """An actor's address. Tenants share nothing, not even where their session names are equal."""

    tenant: str
    session_id: str
    agent_id: str

    def __str__(self) -> str:
        """Return the address as people read it."""
        return "/".join(part for part in self if part)


class StepName(NamedTuple):
    """A step's identity within its turn: a name and a call key, never a position among other steps."""

    name: str
    call_key: str

    def __str__(self) -> str:
        """Return the identity as people read it."""
        return f"{self.name}[{self.call_key}]"
