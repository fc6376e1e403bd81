"""A worker in Python: looks up a price with a tool of the runtime, and pays by itself."""

import os
from pathlib import Path
from typing import Any

from turnkeeper.worker import Turn, run


def handle(turn: Turn) -> Any:
    """Pay for an order."""

    def pay(cents: int) -> str:
        with Path(os.environ["PAID"]).open("a") as book:  # stands for a bank
            book.write(f"{turn.idempotency_key} {cents}\n")
        return f"paid {cents}"

    cents = turn.call("price_of", order=turn.input)
    return turn.step("pay", pay, {"cents": cents}, effect="effectful")


run(handle)
