"""The simulated world: a life in virtual time, under a seeded schedule, with faults and every oracle on.

    async def life(world: World) -> None:
        async with world.runtime([billing]) as runtime:
            await runtime.ask("session-1", "billing", {"order": "W42"}, key="msg-17")

    run(life, seed=17, faults=Faults(crash_rate=0.05))

Equal seeds give equal worlds.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, Final, NoReturn

import msgspec

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import StorageFailed, TurnkeeperError
from turnkeeper.kernel.history import Tally, check_rows
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import Record
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.kept import check_noted
from turnkeeper.kernel.turn import TurnState
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.faults import Faults, FaultyStore, Trouble
from turnkeeper.testing.loop import SeededLoop, waiting_tasks
from turnkeeper.testing.memory import Disk
from turnkeeper.testing.oracles import Oracles
from turnkeeper.testing.schedule import Schedule
from turnkeeper.testing.violated import Killed, Violated
from turnkeeper.testing.virtual import SeededChance, VirtualClock
from turnkeeper.testing.watched import WatchedRuntime
from turnkeeper.testing.world import Life, Load, World

__all__ = ["SimulatedWorld"]

_CLOSING_S: Final = 20.0
"""More than closing takes, a late commit included."""

_PACKAGE: Final = Path(__file__).parents[1]
_HOUSE: Final = tuple(str(_PACKAGE / layer) for layer in ("actors", "supervisors"))


class SimulatedWorld(World):
    """A world in memory, in virtual time. A violation that an oracle finds ends the run at once.

    Args:
        faults: what goes wrong in it.
        disk: what the store holds.
        passed: the crash points so far, by name.
        kills: where each life was killed, in words.
        before_time_passes: called whenever time is about to go on, for whoever wants to watch.
    """

    def __init__(self, seed: int = 0, faults: Faults | None = None, load: Load | None = None) -> None:
        """Make an empty world."""
        self.load = load or Load()
        self.seed = seed
        self.life = 0
        self.chance = Random(f"scenario {seed}")
        self.clock = VirtualClock(lambda: self.now_s)
        self.disk = Disk(f"disk-{seed}")
        self.passed: Counter[str] = Counter()
        self.kills: list[str] = []
        self.violation: Violated | None = None
        self.faults = faults or Faults()
        self._trouble = Trouble(self.faults, seed)
        self._oracles = Oracles(self.disk)
        self._effects: Counter[str] = Counter()
        self._receipts: dict[int, tuple[Address, str, int]] = {}
        self._latest: dict[tuple[Address, str], int] = {}
        self._bodies: dict[int, bytes] = {}
        self._runtimes: list[WatchedRuntime] = []
        self._stores: list[FaultyStore] = []
        self.before_time_passes: Callable[[], None] | None = None
        self._loop: SeededLoop | None = None
        self._alive = False
        self._past_s = 0.0
        self._boot_id = 0

    def digest(self, steps: int) -> str:
        """Return what two worlds have in common only if everything in them went alike, in as many steps."""
        seen = (self.disk.digest(), steps, repr(self.now_s), sorted(self.passed.items()), sorted(self._effects.items()))
        return blake2b(repr(seen).encode(), digest_size=32).hexdigest()

    def reset(self) -> None:
        """Begin anew, as if nothing had happened in this world."""
        self.__init__(self.seed, self.faults, self.load)  # type: ignore[misc]

    @property
    def now_s(self) -> float:
        """Return virtual seconds since the run began."""
        return self._past_s if self._loop is None else self._loop.time()

    # ------------------------------------------------------------ for lives

    def runtime(self, agents: Sequence[Agent], *, settings: Settings | None = None) -> Runtime:
        """Return a runtime on the disk, whose handlers and effects are watched; see `World.runtime`."""
        store = FaultyStore(self.disk, self, self.faults, self._trouble)
        self._stores.append(store)
        watched = [msgspec.structs.replace(agent, handler=self._watched(agent)) for agent in agents]
        chance = SeededChance(self.seed * 1_000 + self.life)
        settings = settings or Settings()
        sweep_s = settings.sweep_s and max(settings.sweep_s, settings.beat_s)  # days pass here, at a look a second
        settings = msgspec.structs.replace(settings, sweep_s=sweep_s)
        return WatchedRuntime(self, store, watched, settings=settings, clock=self.clock, chance=chance, points=self)

    def happen(self, effect: str) -> None:
        """Let an effect happen; see `World.happen`. An effect that happens twice is a violation."""
        if not self._alive and self._loop is not None:  # the last words of a killed process
            raise Killed
        self._effects[effect] += 1
        if self._effects[effect] > 1:
            self.report(Violated("effects at most once", f"{effect} happened twice"))

    def happened(self, effect: str) -> int:
        """Return how often an effect has happened."""
        return self._effects[effect]

    def acknowledged(self, receipt: Receipt) -> None:
        """Remember a receipt, and check it against what clients were told before."""
        of = receipt.address, receipt.key
        self._receipts[receipt.receipt_id] = (*of, receipt.turn_id)
        before = self._latest.setdefault(of, receipt.receipt_id)
        if before == receipt.receipt_id:
            return
        self._latest[of] = receipt.receipt_id
        known = self.disk.receipts.get(before)
        if before not in self.disk.pruned and (known is None or not known.retired):  # or its time to live was over
            said = f"{receipt.address} {receipt.key} was receipt {before}, and is receipt {receipt.receipt_id} now"
            self.report(Violated("one receipt a key", said))

    def delivered(self, result: Result) -> None:
        """Remember a deliverable, and check that it is the same bytes each time."""
        if self._bodies.setdefault(result.turn_id, result.body) != result.body:
            self.report(Violated("the same deliverable, byte for byte", f"turn {result.turn_id}"))

    def report(self, violation: Violated) -> None:
        """End the run with a violation; for oracles of a scenario's own. The first one counts; see `World.report`."""
        if self._loop is None:  # between lives nobody would catch it
            raise violation
        if self.violation is None and self._alive:
            self.violation = violation
        self._loop.kill()

    # ------------------------------------------------------------ what the runtime passes

    def reached(self, point: str, subject: str) -> None:
        """Count a crash point, ask the oracles, and be killed here if the faults say so; see `Points`."""
        if not self._alive:
            raise Killed
        self.passed[point] += 1
        with self._asked():
            self._oracles.reached(point, subject)
        if self._trouble.crashes(self.passed, point, len(self.kills)):
            self._die(f", at crash point {self.passed.total()}, {point} {subject}".rstrip())

    def kill(self) -> NoReturn:
        """Kill the process: nothing of it goes on after this step."""
        self._die("")

    def _die(self, where: str) -> NoReturn:
        self.kills.append(f"life {self.life} was killed at {self.now_s:.3f} s{where}")
        for store in self._stores:
            store.die()
        if self._loop is not None:
            self._loop.kill()
        raise Killed

    def started(self, runtime: Runtime) -> None:
        """Watch a runtime."""
        if isinstance(runtime, WatchedRuntime):
            self._runtimes.append(runtime)
            self._oracles.booted()

    def stopped(self, runtime: Runtime) -> None:
        """Check that a closed runtime has left no task behind, and nothing running in the store."""
        if runtime not in self._runtimes:
            return  # it could not start
        self._runtimes.remove(runtime)
        if not self._runtimes:
            self._check_left_behind("after closing")
            self._check_said_goodbye(runtime)
            running = [turn.turn_id for turn in self.disk.turns.values() if turn.state == TurnState.RUNNING]
            node = runtime.node if isinstance(runtime, WatchedRuntime) else None
            crashed = node is not None and node.failed is not None  # its last words could not be written
            if running and not crashed and not self._in_trouble():
                self.report(Violated("closing hands back what it cuts off", f"turns {running} are left running"))

    def _troubled_s(self) -> float:
        return max((store.troubled_s for store in self._stores), default=-math.inf)

    def _in_trouble(self) -> bool:
        """Say whether a runtime's last words may have been refused by the disk."""
        return self.now_s < self._troubled_s() + _CLOSING_S

    def _check_said_goodbye(self, runtime: Runtime) -> None:
        node = runtime.node if isinstance(runtime, WatchedRuntime) else None
        stored = self.disk.nodes.get(node.lease.boot_id) if node is not None and node.failed is None else None
        if stored is not None and stored.stopped_at is None and not self._in_trouble():
            said = f"boot {stored.boot_id} has closed, and its stopping is not stored"
            self.report(Violated("what is submitted is written before closing", said))

    def committed(self, points: Sequence[Sequence[Record]], rejected: Mapping[int, TurnkeeperError]) -> None:
        """Check what a commit has touched; see `Witness`."""
        with self._asked():
            self._oracles.committed(points, rejected)

    def _see_boot(self, node: Node) -> None:
        """Watch a boot from its beginning: a writer that was started anew in the same process makes one, too."""
        if node.lease.boot_id != self._boot_id:
            self._boot_id = node.lease.boot_id
            self._oracles.booted()

    def _time_passes(self) -> None:
        if self.before_time_passes is not None:
            self.before_time_passes()
        busy = any(store.busy for store in self._stores)
        writing = {turn_id for store in self._stores for turn_id in store.writing()}
        troubled_s = self._troubled_s()
        for runtime in self._runtimes:
            node = runtime.node
            if node is not None and node.open and not node.closing:
                self._see_boot(node)
                with self._asked():
                    self._oracles.writer_writes(node, busy=busy)
                    self._oracles.lease_holds(node, troubled_s)
                    self._oracles.time_passes(node, runtime, writing, self.now_s if busy else troubled_s)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """End the run where an oracle finds something: what is on the stack is the library's, and would catch it."""
        try:
            yield
        except Violated as violation:
            self.report(violation)
            raise Killed from violation

    def _watched(self, agent: Agent) -> Any:
        handler, oracles = agent.handler, self._oracles

        async def watched(turn: Turn) -> Any:
            with self._asked():
                oracles.entered(turn)
            try:
                return await handler(turn)
            finally:
                oracles.left(turn)

        return watched

    # ------------------------------------------------------------ lives

    def live(self, life: Life, schedule: Schedule, limit_s: float) -> tuple[bool, int]:
        """Run one life; return whether it ended by itself, and the steps it took.

        Raises:
            Violated: something may not be.
        """
        __tracebackhide__ = True
        _refuse_running_loop()
        self.life += 1
        self.chance.seed(f"scenario {self.seed}")
        loop = self._loop = SeededLoop(schedule, start_s=self.now_s, limit_s=limit_s)
        loop.before_time_passes.append(self._time_passes)
        self._alive = True
        ended, unheard = False, list[str]()
        try:
            loop.run_until_complete(_lived(life, self))
            self._check_left_behind("after the life returned")
            unheard = [*loop.mishaps, *loop.unheard()]
            ended = True
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - it is raised, unless it is what a failing disk does
            self._judge(error)
        finally:
            self._alive = False
            self._end_life(loop)
        if self.violation is not None:
            raise self.violation
        if ended and unheard:
            raise Violated("nothing fails unheard", "; ".join(unheard[:3]))
        return ended, loop.steps

    def _judge(self, error: Exception) -> None:
        """Raise what a life ended with, but for a failing disk: a process that ends so is started again."""
        leaves = _leaves(error)
        violation = self.violation or next((leaf for leaf in leaves if isinstance(leaf, Violated)), None)
        if violation is error:
            raise error
        if violation is not None:
            raise violation from error
        if not self.faults.disk_fails or not all(isinstance(leaf, StorageFailed) for leaf in leaves):
            raise error

    def _end_life(self, loop: SeededLoop) -> None:
        self._past_s = loop.time() + self.faults.restart_s
        for store in self._stores:
            store.die()
        loop.abandon()
        self._loop = None
        self._stores.clear()
        self._runtimes.clear()
        self._oracles.killed()

    def _check_left_behind(self, when: str) -> None:
        if self._loop is None:
            return
        current = asyncio.current_task(self._loop)
        if any(_of_house(task) for task in self._loop.tasks() if task is not current):
            self.report(Violated("no task is left behind", f"{when}; {waiting_tasks(self._loop)}"))

    def check(self) -> Tally:
        """Check everything that must be true between lives; return what was looked at.

        Raises:
            Violated: something may not be.
        """
        tally = Tally()
        rows = self.disk.rows()
        for found in chain(check_rows(rows, tally), check_noted(rows)):
            raise Violated(found.rule, f"{found.where} {found.what}")
        for number, (address, key, turn_id) in self._receipts.items():
            if {number, turn_id} & self.disk.pruned.keys():
                continue
            receipt = self.disk.receipts.get(number)
            if receipt is None or receipt.key != key or self.disk.actors[receipt.actor_id] != address:
                said = f"{address} {key}: receipt {number} is not stored"
                raise Violated("what was acknowledged is never lost", said)
        for turn_id, body in self._bodies.items():
            if turn_id in self.disk.pruned:
                continue
            stored = self.disk.deliverables.get(turn_id)
            if stored is None or stored.body != body:
                raise Violated("what was delivered is never lost", f"the deliverable of turn {turn_id} is another now")
        return tally


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    msg = "another loop is running, and a life has its own: use a plain function, or in pytest the fixture `world`"
    raise RuntimeError(msg)


def _leaves(error: BaseException) -> list[BaseException]:
    """Return what is in exception groups, however deep."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


async def _lived(life: Life, world: World) -> None:
    await life(world)


def _of_house(task: "asyncio.Task[Any]") -> bool:
    """Say whether a task is the library's own: its own are private; public ones are awaited by its users."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_HOUSE) and code.co_name.startswith("_")
