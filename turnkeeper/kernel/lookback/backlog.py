"""The backlog: receipts that are not answered yet by age, the stuck ones with the reason, and the duplicated ones."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Final

import msgspec

from turnkeeper.kernel.lookback.standing import Standing, standing
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import ReceiptRow
from turnkeeper.kernel.rows import Rows, StoredTurn
from turnkeeper.kernel.turn import TERMINAL, TurnRow

__all__ = ["RECEIPTS_MAX", "ReceiptView", "receipts"]

RECEIPTS_MAX: Final = 500
"""Receipts in one answer, unless asked for more: what a program can show, and a list in memory should be."""


class ReceiptView(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt as it stands. Times are wall time, s; `age_s` counts from its acceptance.

    `state` is the receipt's, `turn_state` its turn's. A live one says what it `waits_for`, and in `stuck` why nothing
    will move it as things are; `behind` is the turn ahead of it.
    """

    receipt_id: int
    turn_id: int
    tenant: str
    session_id: str
    agent_id: str
    key: str
    state: str
    turn_state: str
    age_s: float
    first_seen: float
    last_seen: float
    expires_at: float
    duplicates: int
    waits_for: str = ""
    behind: int | None = None
    stuck: str = ""


def receipts(
    rows: Rows,
    now: float,
    *,
    older_than_s: float | None = None,
    stuck: bool = False,
    duplicated: bool = False,
    limit: int = RECEIPTS_MAX,
) -> list[ReceiptView]:
    """Return receipts in the order of acceptance: those not answered yet or, if `duplicated`, any that came again.

    Each filter narrows what the others leave.

    Args:
        rows: where they are stored.
        now: the moment for which it is said (wall time, s).
        older_than_s: only those accepted or processing for longer.
        stuck: only those that nothing will move as things are.
        duplicated: only those whose inbound came more than once, answered ones too.
        limit: at most so many, the oldest ones.

    Raises:
        StorageFailed: the rows cannot be read.
    """
    found = (
        view
        for view in _views(rows, now, duplicated=duplicated)
        if (older_than_s is None or (view.waits_for and view.age_s > older_than_s)) and (view.stuck or not stuck)
    )
    return list(islice(found, max(limit, 0)))


def _views(rows: Rows, now: float, *, duplicated: bool) -> Iterator[ReceiptView]:
    lease_until = cache(rows.lease_until)
    ahead: defaultdict[int, list[TurnRow]] = defaultdict(list)
    came_again = set(rows.duplicated()) if duplicated else None
    for turn_id in sorted({*rows.live(), *(came_again or ())}):
        stored = rows.turn(turn_id)
        receipt = stored.receipt if stored is not None else None
        if stored is None or receipt is None:
            continue  # the audit's business
        row, stands = stored.row, None
        if row.state not in TERMINAL:
            stands = standing(rows, row, ahead[row.actor_id], now, lease_until)
            ahead[row.actor_id].append(row)
        if came_again is None or turn_id in came_again:
            yield _view(stored, receipt, rows.address(row.actor_id) or Address("", "", "?"), stands, now)


def _view(
    stored: StoredTurn, receipt: ReceiptRow, address: Address, stands: Standing | None, now: float
) -> ReceiptView:
    return ReceiptView(
        receipt_id=receipt.receipt_id,
        turn_id=receipt.turn_id,
        tenant=address.tenant,
        session_id=address.session_id,
        agent_id=address.agent_id,
        key=receipt.key,
        state=str(receipt.state),
        turn_state=str(stored.row.state),
        age_s=now - receipt.first_seen,
        first_seen=receipt.first_seen,
        last_seen=receipt.last_seen,
        expires_at=receipt.expires_at,
        duplicates=receipt.duplicate_count,
        waits_for=stands.waits_for if stands is not None else "",
        behind=stands.behind if stands is not None else None,
        stuck=stands.stuck if stands is not None else "",
    )
