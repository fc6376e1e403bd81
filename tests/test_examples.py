"""The examples run as they stand."""

import runpy
import subprocess
import sys
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


REFUNDS = EXAMPLES / "refunds"
PLANTED = {
    "nothing": ("", ""),
    "a doubt is answered by paying again": ("on_doubt=look_up", "on_doubt=OnDoubt.RETRY"),
    "the bank is paid outside of a step": (
        "await turn.call(refund, order, cents)",
        "await bank.pay(order, cents, order)",
    ),
    "the payment is declared harmless": ("effect=Effect.EFFECTFUL, on_doubt=look_up", "effect=Effect.PURE"),
    "the probe looks for another payment": ("has_paid(step_context().idempotency_key)", "has_paid(order)"),
    "the probe forgets what it found": ("return Happened() if paid else DidNotHappen()", "return DidNotHappen()"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_refund_agents_own_tests_find_a_planted_bug(tmp_path: Path, bug: str) -> None:
    """The suite beside the agent passes as it stands, and fails, naming a payment made twice, with each bug."""
    old, new = PLANTED[bug]
    source = (REFUNDS / "refunds.py").read_text()
    assert old in source
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_refunds.py").write_text((REFUNDS / "test_refunds.py").read_text())
    (tmp_path / "refunds.py").write_text(source.replace(old, new).replace("import Agent,", "import Agent, OnDoubt,"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    assert ran.returncode == (bug != "nothing"), ran.stdout
    assert ("effects at most once" in ran.stdout) == (bug != "nothing")
