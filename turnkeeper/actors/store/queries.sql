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
UPDATE turns
SET state = ?1, epoch = ?2, version = ?3, attempt = ?4, boot_id = NULL, due_at = ?5, deliverable_id = ?6, digest = ?10
WHERE turn_id = ?7 AND epoch = ?8 AND version = ?9;

-- name: turn_acquired
-- queued | suspended -> running; only from the epoch and version it was read at, and only if no other turn of the actor runs.
UPDATE turns SET state = 'running', epoch = ?, version = ?, boot_id = ?, due_at = NULL
WHERE turn_id = ? AND epoch = ? AND version = ?;

-- name: edge_appended
-- Any edge, fenced by the turn's epoch.
INSERT INTO edges (turn_id, ordinal, kind, epoch, at, detail, digest)
SELECT turn_id, ?1, ?2, ?3, ?4, ?5, ?8 FROM turns WHERE turn_id = ?6 AND epoch = ?7;

-- name: edge_appended_late
-- duplicate_dropped on a turn that nobody holds in memory; `chained` is the kernel's.
INSERT INTO edges (turn_id, ordinal, kind, epoch, at, detail, digest)
SELECT e.turn_id, e.ordinal + 1, ?1, t.epoch, ?2, ?3, chained(e.digest, e.turn_id, ?1, ?2, ?3)
FROM turns t JOIN edges e USING (turn_id) WHERE t.turn_id = ?4 ORDER BY e.ordinal DESC LIMIT 1;

-- name: blob_written
-- A detail, or a deliverable's body, that is too large for its row.
INSERT INTO blobs (turn_id, ordinal, body) VALUES (?, ?, ?);

-- name: deliverable
-- turn_completed | turn_failed | turn_cancelled: the one deliverable.
INSERT INTO deliverables (turn_id, outcome, body, at) VALUES (?, ?, ?, ?);

-- name: desired_set
-- A verb was said: the last one of a path counts.
INSERT INTO desired (path, desired, reason, at, changed_by, digest) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE
SET desired = excluded.desired, reason = excluded.reason, at = excluded.at, changed_by = excluded.changed_by,
    digest = excluded.digest;

-- name: child_noted
-- Something happened to a child; its oldest events go by trigger.
INSERT INTO child_events (path, kind, incarnation, at, boot_id, detail, digest) VALUES (?, ?, ?, ?, ?, ?, ?);

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
    e.ordinal + 1, t.boot_id, t.due_at, e.digest,
    a.tenant, a.session_id, a.agent_id,
    r.key, r.digest, r.expires_at
FROM turns t INDEXED BY turns_live
JOIN edges e ON e.turn_id = t.turn_id AND e.ordinal = (SELECT max(ordinal) FROM edges l WHERE l.turn_id = t.turn_id)
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
SELECT turn_id, actor_id, state, epoch, version, attempt, edges, boot_id, due_at, last_digest
FROM stored_turns WHERE turn_id = ?;

-- name: edges
SELECT e.turn_id, e.ordinal, e.kind, e.epoch, e.at, coalesce(b.body, e.detail), e.digest
FROM edges e LEFT JOIN blobs b ON e.detail = x'c1' AND b.turn_id = e.turn_id AND b.ordinal = e.ordinal
WHERE e.turn_id = ? ORDER BY e.ordinal;

-- name: edges_since
-- What has happened after an offset, in the order in which it was committed; without payloads.
SELECT e.edge_id, e.turn_id, e.ordinal, e.kind, e.at, a.tenant, a.session_id, a.agent_id
FROM edges e JOIN turns t USING (turn_id) JOIN actors a USING (actor_id)
WHERE e.edge_id > ? ORDER BY e.edge_id LIMIT ?;

-- name: desired
SELECT path, desired, reason, at, changed_by, digest FROM desired ORDER BY path;

-- name: child_events
SELECT event_id, at, boot_id, path, kind, incarnation, detail, digest FROM child_events
WHERE event_id > ? ORDER BY event_id LIMIT ?;

-- name: child_events_of
SELECT event_id, at, boot_id, path, kind, incarnation, detail, digest FROM child_events
WHERE path = ? AND event_id > ? ORDER BY event_id LIMIT ?;

-- name: deliverable_of
SELECT d.turn_id, d.outcome, coalesce(b.body, d.body), d.at
FROM deliverables d LEFT JOIN blobs b ON d.body = x'c1' AND b.turn_id = d.turn_id AND b.ordinal = -1
WHERE d.turn_id = ?;

-- name: sessions
-- Each table is walked once: searched for every actor it would be walked as often as there are actors.
SELECT
    a.actor_id, a.tenant, a.session_id, a.agent_id,
    coalesce(t.turns, 0), coalesce(t.live, 0), coalesce(t.failed, 0), r.last_at
FROM actors a
LEFT JOIN (
    SELECT
        actor_id, count(*) AS turns,
        count(*) FILTER (WHERE state IN ('queued', 'running', 'suspended')) AS live,
        count(*) FILTER (WHERE state = 'failed') AS failed
    FROM turns GROUP BY actor_id
) t USING (actor_id)
LEFT JOIN (SELECT actor_id, max(last_seen) AS last_at FROM receipts GROUP BY actor_id) r USING (actor_id)
ORDER BY a.actor_id;

-- name: agents
-- Every agent with its live turns by state. The actors are walked once, the live turns of each found by the index.
SELECT
    a.agent_id,
    count(*) FILTER (WHERE t.state = 'queued'),
    count(*) FILTER (WHERE t.state = 'running'),
    count(*) FILTER (WHERE t.state = 'suspended')
FROM actors a
LEFT JOIN turns t INDEXED BY turns_live
    ON t.actor_id = a.actor_id AND t.state IN ('queued', 'running', 'suspended')
GROUP BY a.agent_id ORDER BY a.agent_id;

-- name: turns_by_actor
SELECT * FROM stored_turns ORDER BY actor_id, turn_id;

-- name: turns_of_actor
SELECT * FROM stored_turns WHERE actor_id = ? ORDER BY turn_id;

-- name: stored_turn
SELECT * FROM stored_turns WHERE turn_id = ?;

-- name: live_turn_ids
-- By the index: the order by id would else be had by walking all turns there ever were.
SELECT turn_id FROM turns INDEXED BY turns_live WHERE state IN ('queued', 'running', 'suspended') ORDER BY turn_id;

-- name: live_turn_ids_of
SELECT turn_id FROM turns INDEXED BY turns_live
WHERE state IN ('queued', 'running', 'suspended') AND actor_id = ? ORDER BY turn_id;

-- name: suspended_turn_ids
SELECT turn_id FROM turns INDEXED BY turns_live
WHERE state IN ('queued', 'running', 'suspended') AND state = 'suspended' ORDER BY turn_id;

-- name: address_of
SELECT tenant, session_id, agent_id FROM actors WHERE actor_id = ?;

-- name: duplicated_turn_ids
SELECT turn_id FROM receipts WHERE duplicate_count > 0 ORDER BY receipt_id;

-- name: lease_of
SELECT CASE WHEN stopped_at IS NULL THEN lease_until END FROM nodes WHERE boot_id = ?;

-- name: prunable
-- Turns that ended before ?1 and whose keys answer nothing any more at ?2; never the newest turn or the newest edge's,
-- because numbers are counted on from them.
SELECT t.turn_id
FROM turns t JOIN deliverables d USING (turn_id) JOIN receipts r ON r.receipt_id = t.turn_id
WHERE t.state IN ('completed', 'failed', 'cancelled') AND d.at < ?1 AND r.expires_at <= ?2
    AND t.turn_id < (SELECT max(receipt_id) FROM receipts)
    AND t.turn_id <> (SELECT turn_id FROM edges ORDER BY edge_id DESC LIMIT 1)
ORDER BY t.turn_id LIMIT ?3;

-- name: turn_pruned
-- Its edges, deliverable, receipt and blobs go with it, by trigger.
DELETE FROM turns WHERE turn_id = ?;

-- name: edges_numbered
SELECT e.edge_id, e.turn_id, e.ordinal, e.kind, e.epoch, e.at, coalesce(b.body, e.detail), e.digest
FROM edges e LEFT JOIN blobs b ON e.detail = x'c1' AND b.turn_id = e.turn_id AND b.ordinal = e.ordinal
WHERE e.turn_id = ? ORDER BY e.ordinal;

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
FROM receipts r JOIN turns t USING (turn_id) WHERE r.actor_id <> t.actor_id
UNION ALL
SELECT 'turn ' || turn_id, 'has large values and no row' FROM blobs
WHERE turn_id NOT IN (SELECT turn_id FROM turns) GROUP BY turn_id;

-- name: live_turns_after
-- The same in the order of actors and their turns, which is nearly the index's: a page costs a page.
SELECT
    t.turn_id, t.actor_id, t.state, t.epoch, t.version, t.attempt,
    e.ordinal + 1, t.boot_id, t.due_at, e.digest,
    a.tenant, a.session_id, a.agent_id,
    r.key, r.digest, r.expires_at
FROM turns t INDEXED BY turns_live
JOIN edges e ON e.turn_id = t.turn_id AND e.ordinal = (SELECT max(ordinal) FROM edges l WHERE l.turn_id = t.turn_id)
JOIN actors a USING (actor_id)
JOIN receipts r ON r.receipt_id = t.turn_id
WHERE t.state IN ('queued', 'running', 'suspended') AND (t.actor_id, t.turn_id) > (?, ?)
ORDER BY t.actor_id, t.turn_id LIMIT ?;
