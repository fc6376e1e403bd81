"""The worker's side of a process agent, for workers in Python: the standard library, and nothing else.

    from turnkeeper.worker import run

    def handle(turn):
        price = turn.call("price_of", order=turn.input["order"])
        return turn.step("pay", pay, {"cents": price}, effect="effectful")

    run(handle)

It works in three ways: imported from the package; started as `python .../turnkeeper/worker.py mine.py`, which
`python_worker("mine.py")` does, and which loads nothing of the package but this; or copied beside the worker.
"""

import json
import os
import queue
import sys
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

__all__ = ["Cancelled", "StepFailed", "Turn", "run"]

_VERSION = 1
_NAME_LEN_MAX = 100  # of an error's type
_ESCAPED = 8  # bytes for a character, where a text is cut to fit into a line: JSON takes 6 at most


class Cancelled(BaseException):  # as CancelledError: no `except Exception` is to swallow it
    """The turn is not wanted any more; clean up, and let it through."""


class StepFailed(Exception):
    """A call or a step has no result: it failed (and that is recorded), or it was refused (and nothing was called).

    `error` is the name of the error's type in the runtime, `recorded` whether a rerun fails there again.
    """

    def __init__(self, error: str, message: str, *, recorded: bool, id_: int) -> None:
        """Take the facts."""
        super().__init__(f"{error}: {message}")
        self.error = error
        self.recorded = recorded
        self.id = id_


class Turn:
    """One run of one turn: what came in, and the way to do recorded work."""

    def __init__(self, said: Mapping[str, Any], pipes: "_Pipes") -> None:
        """Give a handler its turn."""
        self.turn_id: int = said["turn"]
        self.tenant: str = said["tenant"]
        self.session_id: str = said["session"]
        self.key: str = said["key"]
        self.attempt: int = said["attempt"]
        self.input: Any = said["input"]
        self.idempotency_key = ""
        self._pipes = pipes
        self._ids = 0

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool of the runtime as a recorded step; a rerun is answered from the record.

        Raises:
            StepFailed: it failed, or was refused.
            ValueError, TypeError: the arguments are nothing that a line of JSON can hold; nothing was called.
            Cancelled: the turn is not wanted any more.
        """
        self._ids += 1
        what = f"the arguments of {tool!r}"
        self._pipes.say("call", what, turn=self.turn_id, id=self._ids, tool=tool, arguments=arguments)
        return self._answer()["result"]

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        effect: str = "pure",
        key: str = "",
    ) -> Any:
        """Do a step here, as `function(**arguments)`, recorded by the runtime; a rerun is answered from the record.

        Args:
            name: the step's name in the record.
            function: what does it; it may read `turn.idempotency_key`, the same on every attempt of this step.
            arguments: by name; a rerun must say the same.
            effect: what doing it twice would do: `pure` nothing, `idempotent` nothing given the same key, `effectful`
                harm. An effectful one that raises says that its effect did not happen.
            key: a call key of its own, where the order of steps may change between attempts.

        Raises:
            StepFailed: it failed, now or when it was recorded; now, the error is its cause.
            ValueError, TypeError: the arguments, or the result, are nothing that a line of JSON can hold. Of a result
                this leaves the step without an outcome: what is effectful is in doubt.
            Cancelled: the turn is not wanted any more.
        """
        self._ids += 1
        id_, given = self._ids, dict(arguments or {})
        asked = {"turn": self.turn_id, "id": id_, "name": name, "effect": effect, "arguments": given, "key": key}
        self._pipes.say("step", f"the arguments of {name!r}", **asked)
        said = self._answer()
        if said["type"] != "go":
            return said["result"]
        self.idempotency_key = said["idempotency_key"]
        try:
            result = function(**given)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the step's failure
            fault = self._pipes.fault(type(error).__name__, str(error))
            self._pipes.say("did", "the error", turn=self.turn_id, id=id_, fault=fault)
            try:
                return self._answer()["result"]
            except StepFailed as failed:
                raise failed from error
        finally:
            self.idempotency_key = ""
        self._pipes.say("did", f"the result of {name!r}", turn=self.turn_id, id=id_, result=result)
        return self._answer()["result"]

    def progress(self, what: str = "on it") -> None:
        """Say that the work gets on; where the runtime bears no idle worker, this is what keeps it.

        Raises:
            ValueError: it is no text that a line can hold.
            Cancelled: the turn is not wanted any more.
        """
        self._pipes.check(self.turn_id)
        self._pipes.beat(what)

    def _answer(self) -> Mapping[str, Any]:
        said = self._pipes.answer(self.turn_id)
        if said["type"] == "error":
            raise ValueError(_not_taken(said))
        if said["type"] in {"failed", "refused"}:
            recorded = said["type"] == "failed"
            raise StepFailed(said["error"], said["message"], recorded=recorded, id_=said["id"])
        return said


class _Pipes:
    """The two pipes: a thread reads, so that pings are answered while the handler works."""

    def __init__(self) -> None:
        self._in = os.fdopen(os.dup(0), "rb")
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # what the handler prints goes to stderr: it is no message
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)  # what the handler, or a process of its own, reads is no message either
        os.close(nothing)
        self._lock = threading.Lock()
        self._incarnation = 0
        self._line_bytes_max = 0
        self._cancelled: set[int] = set()
        self.working = False
        self.turns: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="turnkeeper-pipes").start()

    def say(self, kind: str, what: str = "it", **fields: Any) -> None:
        """Say a line; raise where the runtime would not take it, and so would not answer. `what` names it then."""
        said = {"v": _VERSION, "type": kind, **fields}
        try:
            line = json.dumps(said, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            kept = TypeError if isinstance(error, TypeError) else ValueError
            raise kept(f"{what} cannot be said in a line of JSON: {error}") from error
        if len(line) > self._line_bytes_max:
            msg = f"{what}: {len(line)} bytes of JSON; a line has at most {self._line_bytes_max}"
            raise ValueError(msg)
        with self._lock:
            while line:
                line = line[self._out.write(line) or 0 :]

    def fault(self, error: str, message: str) -> dict[str, str]:
        """Return an error in words that a line can hold: its end is left out where it has no room."""
        words = message[: self._line_bytes_max // _ESCAPED], error[:_NAME_LEN_MAX]
        message, error = (text.encode(errors="replace").decode() for text in words)
        return {"error": error, "message": message}

    def beat(self, progress: str = "") -> None:
        self.say("heartbeat", "the progress", incarnation=self._incarnation, progress=progress)

    def check(self, turn_id: int) -> None:
        if turn_id in self._cancelled:
            raise Cancelled

    def answer(self, turn_id: int) -> Mapping[str, Any]:
        """Wait for the answer to what was just asked."""
        while True:
            self.check(turn_id)
            said = self._answers.get()
            if said["type"] == "error" or (said.get("turn") == turn_id and said["type"] != "cancel"):
                return said

    def _read(self) -> None:
        for line in self._in:
            said = json.loads(line)
            match said["type"]:
                case "hello":
                    self._incarnation, self._line_bytes_max = said["incarnation"], said["line_bytes_max"]
                    self.say("ready", incarnation=self._incarnation)
                case "ping":
                    self.say("pong", incarnation=self._incarnation, n=said["n"])
                case "turn":
                    self._forget()
                    self.turns.put(said)
                case "cancel":
                    self._cancelled.add(said["turn"])
                    self._answers.put(said)  # wakes whoever waits for an answer
                case "answer" | "go" | "failed" | "refused":
                    self._answers.put(said)
                case "error":
                    print(_not_taken(said), file=sys.stderr)  # noqa: T201
                    (self._answers if self.working else self.turns).put(said)
                case "bye":
                    self.turns.put(None)
                    if not self.working:
                        return  # the program ends as programs do
                case _:
                    pass
        os._exit(0)  # the runtime is gone, or the turn is not wanted; nobody wants what the handler does

    def _forget(self) -> None:
        """Leave behind what a turn before this one was told."""
        self._cancelled.clear()
        while not self._answers.empty():  # to what a cancelled turn had asked
            self._answers.get()


def _not_taken(said: Mapping[str, Any]) -> str:
    return f"the runtime has not taken a line: {said['code']}: {said['message']}"


def run(handle: Callable[[Turn], Any]) -> None:
    """Take turns until there are no more; what `handle` returns is the turn's deliverable, what it raises its failure.

    The handler runs in the calling thread, one turn at a time. It may run more than once for a turn, from its top.
    """
    pipes, ended = _Pipes(), 0
    while (said := pipes.turns.get()) is not None:
        if said["type"] == "turn":
            ended = said["turn"]
            _work(handle, Turn(said, pipes), pipes)
        elif ended:  # the end of that turn was not taken; if this one is not either, somebody else writes these lines
            pipes.say("error", "the error", turn=ended, **pipes.fault("ValueError", _not_taken(said)))
            ended = 0


def _work(handle: Callable[[Turn], Any], turn: Turn, pipes: _Pipes) -> None:
    """Run a turn, and say how it ended: where its result cannot be said, that it could not."""
    kind, fields = "error", dict[str, Any]()
    pipes.working = True
    try:
        kind, fields = "result", {"value": handle(turn)}
    except Cancelled:
        fields = {"error": "Cancelled"}
    except StepFailed as error:
        fields = {**pipes.fault(error.error, str(error)), "of": error.id}
    except Exception as error:  # noqa: BLE001 - whatever it raises is the turn's failure
        fields = pipes.fault(type(error).__name__, str(error))
    pipes.working = False
    try:
        pipes.say(kind, "the turn's result", turn=turn.turn_id, **fields)
    except (TypeError, ValueError) as error:
        pipes.say("error", "the error", turn=turn.turn_id, **pipes.fault(type(error).__name__, str(error)))


def _main() -> NoReturn:
    """Run a worker's file; `turnkeeper.worker` is this module then, and the package is not loaded."""
    path = os.path.abspath(sys.argv[1])  # noqa: PTH100 - pathlib takes longer to load than all of this
    package = types.ModuleType("turnkeeper")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120
    sys.modules["turnkeeper"] = package
    sys.modules["turnkeeper.worker"] = sys.modules[__name__]
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(path)  # noqa: PTH120
    mine = sys.modules["__main__"] = types.ModuleType("__main__")
    mine.__file__ = path
    with open(path, "rb") as file:  # noqa: PTH123
        code = compile(file.read(), path, "exec")
    exec(code, mine.__dict__)  # noqa: S102 - it is the program that was asked for
    sys.exit()


if __name__ == "__main__":
    _main()
