"""The owner lock: one runtime owns a file, and a dead owner is known at once."""

import fcntl
import os
from pathlib import Path
from weakref import WeakSet

from turnkeeper.kernel.errors import StorageFailed, StoreInUse

__all__ = ["OwnerLock"]


class OwnerLock:
    """An exclusive lock on the sidecar file `<store>.lock`, given back by the kernel when its process dies.

    The sidecar stays: removing a lock file while another process opens it would give two owners.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._fd: int | None = None

    def acquire(self, store: Path) -> None:
        """Take ownership of a store without waiting. Two paths to one store must be resolved to one before.

        Raises:
            StoreInUse: another runtime, in this process or another, owns the store.
            StorageFailed: the sidecar cannot be made.
        """
        path = store.with_name(store.name + ".lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(str(path), error.strerror or str(error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 64, 0).decode(errors="replace").strip()
            os.close(fd)
            raise StoreInUse(str(store), owner or "another process") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}\n".encode(), 0)
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Give ownership back; does nothing where it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _held.discard(self)


_held: WeakSet[OwnerLock] = WeakSet()


def _give_back_in_child() -> None:
    """Close the locks a fork has copied: a child that outlives its parent must not own the parent's file."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_give_back_in_child)
