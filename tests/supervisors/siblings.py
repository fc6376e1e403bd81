"""Siblings: children of a supervisor that are in the test's hands."""

import asyncio
from collections.abc import Awaitable

from anyio.lowlevel import checkpoint

from turnkeeper.kernel.supervision.child import ChildSpec, Exit, Exited, Restart
from turnkeeper.kernel.supervision.intensity import Intensity

CRASHED, NORMAL = Exit("crashed", normal=False), Exit("normal", normal=True)
AT_ONCE = Intensity(restarts_max=1_000, pauses_s=(0.0,))


class Child:
    """A child in the test's hands: it notes what is done to it, and falls when told."""

    def __init__(self, name: str, log: list[str], *, slow: bool = False) -> None:
        self.name, self.log, self.slow = name, log, slow
        self.gate = asyncio.Event()
        self.starts = 0
        self.up = 0
        self.refuses: Exception | None = None
        self.exited: Exited = lambda _: None

    def start(self, exited: Exited) -> Awaitable[None] | None:
        self.starts += 1
        self.exited = exited
        self.log.append(f"start {self.name}")
        if self.refuses is not None:
            raise self.refuses
        if self.slow:
            return self._start()
        self.up += 1
        return None

    async def _start(self) -> None:
        await self.gate.wait()
        self.up += 1

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:
        self.log.append(f"stop {self.name}")
        return self._stop() if self.slow else self._down()

    async def _stop(self) -> None:
        await checkpoint()
        self._down()

    def _down(self) -> None:
        self.up = 0

    def fall(self, exit_: Exit = CRASHED) -> None:
        self.up -= 1
        self.log.append(f"fell {self.name}")
        self.exited(exit_)


def family(
    names: str, *, slow: str = "", restart: Restart = Restart.PERMANENT
) -> tuple[dict[str, Child], list, list[str]]:
    log: list[str] = []
    children = {name: Child(name, log, slow=name in slow) for name in names}
    specs = [ChildSpec(name=name, child=child, restart=restart) for name, child in children.items()]
    for child in children.values():
        child.gate.set()
    return children, specs, log


async def quiet() -> None:
    """Let everything that is ready happen."""
    for _ in range(30):
        await checkpoint()
