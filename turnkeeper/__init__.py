"""turnkeeper: durable turns for AI agents, one at a time, through any crash."""

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.tool import DidNotHappen, GiveUp, Happened, StepContext, Tool, step_context, tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel import errors
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import Effect, OnDoubt
from turnkeeper.supervisors.runtime import Runtime

__all__ = [
    "Agent",
    "DidNotHappen",
    "Effect",
    "GiveUp",
    "Happened",
    "OnDoubt",
    "Receipt",
    "Result",
    "Retry",
    "Runtime",
    "Settings",
    "StepContext",
    "Tool",
    "Turn",
    "TurnkeeperError",
    "agent",
    "errors",
    "step_context",
    "tool",
]
__version__ = "0.1.0"
