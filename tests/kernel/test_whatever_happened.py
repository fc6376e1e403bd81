"""Looking back at whatever may have happened: every question has an answer, in words, and changes nothing."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from telling import DAY_S, Told

from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.lookback.backlog import receipts
from turnkeeper.kernel.lookback.checkpoint import checkpoint
from turnkeeper.kernel.lookback.compare import diff
from turnkeeper.kernel.lookback.explain import explain
from turnkeeper.kernel.lookback.past import span
from turnkeeper.kernel.lookback.replay import ReplayVerdict, plan_replay
from turnkeeper.kernel.turn import TERMINAL, TurnState

STEPS = ("find", "charge", "refund")
EFFECTS = {"find": "pure", "charge": "idempotent", "refund": "effectful"}


class Life:
    """A store in which anything legal happens, as `draw` says."""

    def __init__(self, data: st.DataObject) -> None:
        self.told = Told()
        self._data = data
        self._under_way: dict[int, set[str]] = {}

    def draw(self, *choices: object) -> object:
        return self._data.draw(st.sampled_from(choices))

    def go_on(self) -> None:
        """Let one more thing happen, to a new turn or to one there is."""
        told = self.told
        turn = self.draw(None, *told.turns)
        if not isinstance(turn, int):
            live = [row for row in told.turns.values() if row.state not in TERMINAL]
            ended = [turn_id for turn_id, row in told.turns.items() if row.state in TERMINAL]
            source = self.draw(None, *ended)
            fork = (source, self._data.draw(st.integers(0, self._steps(source)))) if isinstance(source, int) else None
            told.accept(key=None, start=not live, fork=fork)
            return
        if self.draw(True, False, False, False):
            told.came_again(turn)
            return
        match told.turns[turn].state:
            case TurnState.RUNNING:
                self._run(turn)
            case TurnState.QUEUED:
                self._queued(turn)
            case TurnState.SUSPENDED:
                found = self.draw({"happened": True}, {"given_up": True}, {})
                assert isinstance(found, dict)
                told.resume(turn, "refund", **found)
                self._under_way[turn] = set()
            case _:
                pass

    def _steps(self, turn: int) -> int:
        steps = checkpoint(self.told.rows, turn).steps
        return steps[-1].issued + 1 if steps else 0

    def _queued(self, turn: int) -> None:
        told = self.told
        ahead = any(row.turn_id < turn and row.state not in TERMINAL for row in told.turns.values())
        if self.draw("start", "cancel") == "cancel":
            told.cancel(turn)
        elif not ahead:
            told.start(turn)

    def _run(self, turn: int) -> None:
        told, name = self.told, str(self.draw(*STEPS))
        issued, under_way = STEPS.index(name), self._under_way.setdefault(turn, set())
        what = self.draw("call", "call", "call", "end", "requeue", "retry", "suspend")
        if what == "end":
            getattr(told, str(self.draw("complete", "fail", "cancel")))(turn)
        elif what == "requeue":
            told.requeue(turn, Requeued(str(self.draw("recovery", "shutdown", "resolved"))))
        elif what == "retry":
            told.retry(turn, float(str(self.draw(0, 100))))
        elif what == "suspend":
            told.stand(turn, 2, "refund", for_s=float(str(self.draw(10, DAY_S))))
        elif EFFECTS[name] == "pure":
            told.answer(turn, issued, name, pure=True)
        elif name not in under_way:
            told.intend(turn, issued, name, EFFECTS[name])
            under_way.add(name)
        else:
            under_way.discard(name)
            self._outcome(turn, issued, name)

    def _outcome(self, turn: int, issued: int, name: str) -> None:
        told = self.told
        match self.draw("answer", "fail", "retry", "doubt", "policy"):
            case "answer":
                told.answer(turn, issued, name)
            case "fail":
                told.fail_step(turn, issued, name)
            case "retry":
                told.fail_step(turn, issued, name, retry_at=told.now + 5)
            case "doubt":
                told.doubt(turn, issued, name)
            case _:
                told.doubt(turn, issued, name)
                told.policy(
                    turn, name, *str(self.draw("probe happened", "probe did_not_happen", "retry", "fail")).split()
                )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_happened_every_question_has_an_answer(data: st.DataObject) -> None:
    """For every turn, at every moment; what is said of its state fits it, and no row changes."""
    life = Life(data)
    for _ in range(data.draw(st.integers(1, 25))):
        life.go_on()
    told = life.told
    before, rows = told.disk.digest(), told.rows
    now = told.now + data.draw(st.sampled_from([0.0, 1.0, 30.0, 100.0, 2 * DAY_S]))
    waiting = {one.turn_id: one for one in receipts(rows, now)}
    for turn_id, row in told.turns.items():
        found, plan = explain(rows, turn_id, now), plan_replay(rows, turn_id, now)

        assert found.waits_for
        assert found.next
        assert all(found.next)
        assert (turn_id in waiting) == (row.state not in TERMINAL)
        assert found.stuck == (waiting[turn_id].stuck if turn_id in waiting else "")
        assert (plan.verdict is ReplayVerdict.TERMINAL_COMPLETED) == (row.state is TurnState.COMPLETED)
        if row.state not in TERMINAL:
            assert plan.verdict is ReplayVerdict.BLOCKED_PROCESSING
        if plan.fork_from_step is not None:
            assert 0 < plan.fork_from_step <= len(STEPS)
        assert (found.doubt is not None) == (row.state is TurnState.SUSPENDED)
        assert not diff(rows, turn_id, turn_id).different
        checkpoint(rows, turn_id)

    assert told.disk.digest() == before


@given(st.floats(0, 1e9))
@example(0.9999)
@example(59.99)
def test_a_span_is_short_and_says_its_unit(seconds: float) -> None:
    """Whatever the number."""
    number, unit = span(seconds).split()

    assert float(number) < 1_000 or unit == "days"
    assert unit in {"ms", "s", "min", "h", "days"}
