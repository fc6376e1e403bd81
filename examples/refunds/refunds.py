"""A refund agent, as a team would write it. Its tests are beside it."""

from typing import Protocol

from turnkeeper import Agent, DidNotHappen, Effect, Happened, Turn, agent, step_context, tool


class Bank(Protocol):
    """What pays: a service elsewhere."""

    async def price(self, order: str) -> int:
        """Return what an order has cost, in cents."""
        ...

    async def pay(self, order: str, cents: int, reference: str) -> None:
        """Pay a customer. The bank pays again if it is asked again."""
        ...

    async def has_paid(self, reference: str) -> bool:
        """Say whether a payment with this reference has been made."""
        ...


def refunds(bank: Bank) -> Agent:
    """Return the agent that refunds an order."""

    async def look_up(order: str, cents: int) -> Happened | DidNotHappen:  # noqa: ARG001 - a probe gets what its tool got
        paid = await bank.has_paid(step_context().idempotency_key)
        return Happened() if paid else DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, on_doubt=look_up)
    async def refund(order: str, cents: int) -> None:
        await bank.pay(order, cents, step_context().idempotency_key)

    @agent("refunds", tools=[refund])
    async def handler(turn: Turn) -> str:
        order: str = turn.input["order"]
        cents = await turn.step("price", bank.price, order)
        await turn.call(refund, order, cents)
        return f"refunded {cents} cents of {order}"

    return handler
