"""Places in code, for logs: where an error was raised, where a task stands, what a thread is doing."""

import asyncio
import traceback
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any

from turnkeeper.kernel.errors import StepFailed

__all__ = ["digest", "place", "raised_at", "stands_at"]

_ASYNCIO = Path(asyncio.__file__).parent


def place(frame: FrameType) -> str:
    """Return where a frame stands: `file:line in function`."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def raised_at(error: BaseException) -> str:
    """Return where an error was raised: its message may hold what belongs into no log, its place does not."""
    raised = error.__cause__ if isinstance(error, StepFailed) and error.__cause__ is not None else error
    frames = traceback.extract_tb(raised.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def digest(error: BaseException) -> str:
    """Return a digest of the places an error came through: equal places in the code have equal digests."""
    frames = traceback.extract_tb(error.__traceback__)
    places = "\n".join(f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in frames)
    return blake2b(places.encode(errors="replace"), digest_size=8).hexdigest()


def stands_at(task: "asyncio.Task[Any]") -> str:
    """Return the innermost place at which a task that waits stands, outside of asyncio itself; empty for nowhere."""
    found = ""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = next((frame for name in _FRAMES if (frame := getattr(awaited, name, None)) is not None), None)
        if frame is not None and Path(frame.f_code.co_filename).parent != _ASYNCIO:
            found = place(frame)
        awaited = next((inner for name in _AWAITED if (inner := getattr(awaited, name, None)) is not None), None)
    return found


_FRAMES = ("cr_frame", "gi_frame")
_AWAITED = ("cr_await", "gi_yieldfrom")
"""What a coroutine and a generator call their frame, and what they wait for."""
