"""The examples run as they stand."""

import runpy
from pathlib import Path
from typing import Any

import httpx
import pytest

from turnkeeper.actors.store.audit import audit

EXAMPLES = Path(__file__).parents[1] / "examples"


async def post(app: Any, times: int, guests: int) -> list[httpx.Response]:
    """Serve for as long as it takes to send one message so many times."""
    sent = {"json": {"guests": guests}, "headers": {"idempotency-key": "msg-1"}}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        return [await client.post("/sessions/alice/messages", **sent) for _ in range(times)]


async def test_the_server_answers_a_repeated_message_with_the_same_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside an application's lifespan: one turn for a message sent again, also after the server has restarted."""
    monkeypatch.setenv("AGENTS_DB", str(path))
    app = runpy.run_path(str(EXAMPLES / "starlette_server.py"))["app"]
    first, second = await post(app, 2, guests=4)
    (third,) = await post(app, 1, guests=4)
    (other,) = await post(app, 1, guests=5)

    assert first.status_code == 200
    assert first.json()["answer"].startswith("table for 4")
    assert first.content == second.content == third.content
    assert other.status_code == 409
    assert other.json()["error"] == "IdempotencyConflict"
    assert audit(path).violations == []
