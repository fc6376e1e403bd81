"""Storage errors: the file, not the caller."""

from dataclasses import dataclass
from typing import ClassVar

from turnkeeper.kernel.errors.base import StorageError

__all__ = [
    "KeyTaken",
    "SchemaTooNew",
    "StorageFailed",
    "StoreInUse",
]


@dataclass(eq=False)
class StorageFailed(StorageError):
    """The store could not do it; nothing of it is acknowledged. See `reason` (disk full, not a database ...)."""

    retryable: ClassVar[bool] = True
    path: str
    reason: str
    says = "{path}: {reason}"


@dataclass(eq=False)
class StoreInUse(StorageError):
    """Another runtime owns the file. One process writes; readers may open it meanwhile."""

    path: str
    owner: str
    says = "{path}: in use by {owner}; one runtime owns a file at a time"


@dataclass(eq=False)
class SchemaTooNew(StorageError):
    """The file was written by a newer version. Upgrade turnkeeper; the file was not touched."""

    path: str
    found: int
    known: int
    says = "{path}: has schema {found}, this version knows up to {known}; upgrade turnkeeper"


@dataclass(eq=False)
class KeyTaken(StorageError):
    """The store holds a receipt under this key already. Internal: `tell` answers with that receipt."""

    key: str
    says = "key {key!r} has a receipt already"
