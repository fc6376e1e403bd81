"""A server that answers with durable turns: the runtime lives in the application's lifespan.

FastAPI takes the same lifespan. To run it: `pip install starlette uvicorn`, `uvicorn examples.starlette_server:app`.
A client that sends its message id as the key may send again after any error: it is answered, nothing runs twice.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from turnkeeper import Effect, Runtime, Turn, TurnkeeperError, agent, step_context, tool


@tool(effect=Effect.IDEMPOTENT, timeout_s=10)
async def book_table(guests: int) -> str:
    """Book a table; the key lets the restaurant's own API recognise a repetition."""
    return f"table for {guests}, reference {step_context().idempotency_key.rsplit('/', 3)[1]}"


@agent("concierge", tools=[book_table])
async def concierge(turn: Turn) -> str:
    """Answer one message."""
    return await turn.call(book_table, guests=turn.input["guests"])


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the runtime with the application and close it in good order."""
    async with Runtime(os.environ.get("AGENTS_DB", "agents.db"), [concierge]) as runtime:
        app.state.runtime = runtime
        yield


async def message(request: Request) -> JSONResponse:
    """Accept a message and answer with its deliverable."""
    runtime: Runtime = request.app.state.runtime
    session = request.path_params["session"]
    try:
        result = await runtime.ask(session, "concierge", await request.json(), key=request.headers["idempotency-key"])
    except TurnkeeperError as error:
        return JSONResponse({"error": type(error).__name__, "message": str(error)}, status_code=409)
    return JSONResponse({"turn": result.turn_id, "answer": result.value})


app = Starlette(lifespan=lifespan, routes=[Route("/sessions/{session}/messages", message, methods=["POST"])])
