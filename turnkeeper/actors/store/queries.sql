-- Every statement, by name. Those of the writer take a record's fields, in order (kernel/records.py).

-- name: node_started
-- A runtime opens the store.
INSERT INTO nodes (boot_id, pid, started_at, lease_until) VALUES (?, ?, ?, ?);

-- name: node_beat
-- A runtime renews its lease.
UPDATE nodes SET lease_until = ? WHERE boot_id = ?;

-- name: node_stopped
-- A runtime closes the store in good order.
UPDATE nodes SET stopped_at = ? WHERE boot_id = ?;

-- name: actor_opened
-- First word to a (tenant, session, agent).
INSERT INTO actors (actor_id, tenant, session_id, agent_id) VALUES (?, ?, ?, ?);

-- name: receipt_accepted
-- inbound_received: the receipt. A key that is taken is refused by the index receipts_key.
INSERT INTO receipts (receipt_id, actor_id, key, turn_id, digest, first_seen, last_seen, expires_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: receipt_seen
-- duplicate_dropped: count it.
UPDATE receipts SET duplicate_count = duplicate_count + 1, last_seen = ? WHERE receipt_id = ?;

-- name: receipt_retired
-- The key's time to live is over; it may stand for something new.
UPDATE receipts SET retired = 1 WHERE receipt_id = ? AND retired = 0;

-- name: turn_inserted
-- none -> queued, or none -> queued -> running where the actor is idle.
INSERT INTO turns (turn_id, actor_id, state, epoch, version, attempt, boot_id) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: turn_released
-- running -> queued | suspended | terminal, queued | suspended -> terminal; only from the epoch and version it was read at.
UPDATE turns SET state = ?, epoch = ?, version = ?, attempt = ?, boot_id = NULL, due_at = ?, deliverable_id = ?
WHERE turn_id = ? AND epoch = ? AND version = ?;

-- name: turn_acquired
-- queued | suspended -> running; only from the epoch and version it was read at, and only if no other turn of the actor runs.
UPDATE turns SET state = 'running', epoch = ?, version = ?, boot_id = ?, due_at = NULL
WHERE turn_id = ? AND epoch = ? AND version = ?;

-- name: edge_appended
-- Any edge, fenced by the turn's epoch.
INSERT INTO edges (turn_id, ordinal, kind, epoch, at, detail)
SELECT turn_id, ?, ?, ?, ?, ? FROM turns WHERE turn_id = ? AND epoch = ?;

-- name: edge_appended_late
-- duplicate_dropped on a turn that nobody holds in memory.
INSERT INTO edges (turn_id, ordinal, kind, epoch, at, detail)
SELECT turn_id, (SELECT max(ordinal) + 1 FROM edges e WHERE e.turn_id = turns.turn_id), ?, epoch, ?, ?
FROM turns WHERE turn_id = ?;

-- name: deliverable
-- turn_completed | turn_failed | turn_cancelled: the one deliverable.
INSERT INTO deliverables (turn_id, outcome, body, at) VALUES (?, ?, ?, ?);

-- name: store_created
INSERT INTO store (store_id, created_at) VALUES (?, ?);

-- name: marks
SELECT
    (SELECT store_id FROM store),
    (SELECT coalesce(max(boot_id), 0) FROM nodes),
    (SELECT coalesce(max(actor_id), 0) FROM actors),
    (SELECT coalesce(max(receipt_id), 0) FROM receipts);

-- name: live_turns
-- Every live turn with its actor and its receipt, in the order of acceptance.
SELECT
    t.turn_id, t.actor_id, t.state, t.epoch, t.version, t.attempt,
    (SELECT max(ordinal) + 1 FROM edges e WHERE e.turn_id = t.turn_id), t.boot_id, t.due_at,
    a.tenant, a.session_id, a.agent_id,
    r.key, r.digest, r.expires_at
FROM turns t
JOIN actors a USING (actor_id)
JOIN receipts r ON r.receipt_id = t.turn_id
WHERE t.state IN ('queued', 'running', 'suspended')
ORDER BY t.turn_id;

-- name: actor_id
SELECT actor_id FROM actors WHERE tenant = ? AND session_id = ? AND agent_id = ?;

-- name: receipt
SELECT receipt_id, actor_id, key, turn_id, digest, state, duplicate_count, first_seen, last_seen, expires_at
FROM receipt_states WHERE actor_id = ? AND key = ? AND retired = 0;

-- name: turn
SELECT
    turn_id, actor_id, state, epoch, version, attempt,
    (SELECT max(ordinal) + 1 FROM edges e WHERE e.turn_id = t.turn_id), boot_id, due_at
FROM turns t WHERE turn_id = ?;

-- name: edges
SELECT turn_id, ordinal, kind, epoch, at, detail FROM edges WHERE turn_id = ? ORDER BY ordinal;

-- name: deliverable_of
SELECT turn_id, outcome, body, at FROM deliverables WHERE turn_id = ?;

-- name: sessions
SELECT
    a.actor_id, a.tenant, a.session_id, a.agent_id, count(t.turn_id),
    count(*) FILTER (WHERE t.state IN ('queued', 'running', 'suspended')),
    count(*) FILTER (WHERE t.state = 'failed'),
    (SELECT max(r.last_seen) FROM receipts r WHERE r.actor_id = a.actor_id)
FROM actors a LEFT JOIN turns t USING (actor_id)
GROUP BY a.actor_id
ORDER BY a.actor_id;

-- name: turns_of_actor
SELECT
    t.turn_id, t.actor_id, t.state, t.epoch, t.version, t.attempt,
    (SELECT max(ordinal) + 1 FROM edges e WHERE e.turn_id = t.turn_id), t.boot_id, t.due_at,
    r.key, r.digest, r.duplicate_count, r.first_seen
FROM turns t LEFT JOIN receipts r ON r.receipt_id = t.turn_id
WHERE t.actor_id = ?
ORDER BY t.turn_id;

-- name: edges_numbered
SELECT edge_id, turn_id, ordinal, kind, epoch, at, detail FROM edges WHERE turn_id = ? ORDER BY ordinal;

-- name: turns_completed
SELECT count(*) FROM deliverables;

-- name: orphans
SELECT 'turn ' || turn_id, 'has no receipt' FROM turns WHERE turn_id NOT IN (SELECT turn_id FROM receipts)
UNION ALL
SELECT 'turn ' || turn_id, 'has edges and no row' FROM edges
WHERE turn_id NOT IN (SELECT turn_id FROM turns) GROUP BY turn_id
UNION ALL
SELECT 'turn ' || turn_id, 'has a deliverable and no row' FROM deliverables
WHERE turn_id NOT IN (SELECT turn_id FROM turns)
UNION ALL
SELECT 'receipt ' || receipt_id, 'leads to turn ' || turn_id || ', which is not there' FROM receipts
WHERE turn_id NOT IN (SELECT turn_id FROM turns)
UNION ALL
SELECT 'turn ' || turn_id, 'belongs to actor ' || actor_id || ', which is not there' FROM turns
WHERE actor_id NOT IN (SELECT actor_id FROM actors)
UNION ALL
SELECT 'receipt ' || r.receipt_id, 'and its turn ' || r.turn_id || ' belong to different actors'
FROM receipts r JOIN turns t USING (turn_id) WHERE r.actor_id <> t.actor_id;
