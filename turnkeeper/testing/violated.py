"""What the kit raises: a promise was broken, in this run, and this is how to see it again."""

__all__ = ["Deadlocked", "Killed", "Stalled", "Violated"]


class Violated(AssertionError):
    """An oracle found what may not be. `rule` is the broken promise, `what` was found."""

    def __init__(self, rule: str, what: str) -> None:
        """Take the rule and what was found."""
        super().__init__(f"{rule}: {what}")
        self.rule = rule
        self.what = what


class Deadlocked(Violated):
    """Nothing is ready and no timer is set, yet somebody waits: nothing will ever happen again."""

    def __init__(self, waiting: str) -> None:
        """Take who waits, and where."""
        super().__init__("no deadlock", f"nothing is ready and no timer is set; {waiting}")


class Stalled(Violated):
    """A run is not over within its virtual time, or goes round without time passing."""

    def __init__(self, why: str, waiting: str) -> None:
        """Take the limit that was passed, and who waits where."""
        super().__init__("no stall", f"{why}; {waiting}")


class Killed(BaseException):
    """The process was killed at a crash point. No exception handler of the killed life runs to any effect."""
