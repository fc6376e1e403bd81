"""The owner lock: one runtime owns a file, and a dead owner is known at once."""

import fcntl
import os
from pathlib import Path

from turnkeeper.kernel.errors import StorageFailed, StoreInUse

__all__ = ["OwnerLock"]


class OwnerLock:
    """An exclusive lock on the sidecar file `<store>.lock`, given back by the kernel when its process dies.

    The sidecar stays: removing a lock file while another process opens it would give two owners.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, store: Path) -> None:
        """Name the sidecar of a store. Two paths to one store must be resolved to one before."""
        self.path = store.with_name(store.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take ownership without waiting.

        Raises:
            StoreInUse: another runtime, in this process or another, owns the store.
            StorageFailed: the sidecar cannot be made.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(str(self.path), error.strerror or str(error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 64, 0).decode(errors="replace").strip()
            os.close(fd)
            raise StoreInUse(str(self.path).removesuffix(".lock"), owner or "another process") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give ownership back; does nothing where it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
