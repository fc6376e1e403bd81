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
INSERT INTO receipts (receipt_id, actor_id, key, turn_id, digest, first_seen, last_seen, expires_at, arrived)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: receipt_moved
-- A message that had joined a turn opens one of its own.
UPDATE receipts SET turn_id = ? WHERE receipt_id = ?;

-- name: receipt_seen
-- duplicate_dropped: count it.
UPDATE receipts SET duplicate_count = duplicate_count + 1, last_seen = ? WHERE receipt_id = ?;

-- name: receipt_retired
-- The key's time to live is over; it may stand for something new.
UPDATE receipts SET retired = 1 WHERE receipt_id = ? AND retired = 0;

-- name: turn_inserted
-- none -> queued, or none -> queued -> running where the actor is idle.
INSERT INTO turns (turn_id, actor_id, state, epoch, version, attempt, boot_id, parent_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

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

-- name: edge_appended_behind
-- The same where something was refused: what stands on a refused edge is refused, too. It costs a look-up.
INSERT INTO edges (turn_id, ordinal, kind, epoch, at, detail, digest)
SELECT turn_id, ?1, ?2, ?3, ?4, ?5, ?8 FROM turns WHERE turn_id = ?6 AND epoch = ?7
    AND (?1 = 0 OR EXISTS (SELECT 1 FROM edges WHERE turn_id = ?6 AND ordinal = ?1 - 1));

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

-- name: wait_stood
-- turn_suspended: what the turn stands on. Its rows go by trigger.
INSERT INTO waits (turn_id, issued, kind, due_at, child_id)
SELECT turn_id, ?1, ?2, ?3, ?4 FROM turns WHERE turn_id = ?5 AND version = ?6 AND state = 'suspended';

-- name: signal_sent
-- A key that is taken is refused by the index signals_key.
INSERT INTO signals (signal_id, actor_id, name, key, body, at, expires_at, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: signal_retired
-- The key's time to live is over; it may stand for something new.
UPDATE signals SET retired = 1 WHERE signal_id = ? AND retired = 0;

-- name: signal_taken
-- Once.
UPDATE signals SET taken_by = ? WHERE signal_id = ? AND taken_by IS NULL;

-- name: handed_off
INSERT INTO handoffs (turn_id, tenant, session_id, from_agent, to_agent, at) VALUES (?, ?, ?, ?, ?, ?);

-- name: desired_set
-- A verb was said: the last one of a path counts.
INSERT INTO desired (path, desired, reason, at, changed_by, digest) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE
SET desired = excluded.desired, reason = excluded.reason, at = excluded.at, changed_by = excluded.changed_by,
    digest = excluded.digest;

-- name: child_noted
-- Something happened to a child; its oldest events go by trigger.
INSERT INTO child_events (path, kind, incarnation, at, boot_id, detail, digest) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: state_set
-- turn_completed: what its actor remembers from now on. Only a turn of that actor that has completed may say so.
INSERT INTO states (actor_id, version, body, turn_id, at, digest)
SELECT actor_id, ?2, ?3, turn_id, ?5, ?6 FROM turns WHERE turn_id = ?4 AND actor_id = ?1 AND state = 'completed'
ON CONFLICT (actor_id) DO UPDATE
SET version = excluded.version, body = excluded.body, turn_id = excluded.turn_id, at = excluded.at,
    digest = excluded.digest;

-- name: store_created
INSERT INTO store (store_id, created_at) VALUES (?, ?);

-- name: marks
SELECT
    (SELECT store_id FROM store),
    (SELECT coalesce(max(boot_id), 0) FROM nodes),
    (SELECT coalesce(max(actor_id), 0) FROM actors),
    (SELECT coalesce(max(receipt_id), 0) FROM receipts),
    (SELECT coalesce(max(signal_id), 0) FROM signals);

-- name: live_turns
-- Every one, in the order of acceptance.
SELECT * FROM live_turns ORDER BY turn_id;

-- name: awake_turns
-- The live turns of actors that have no suspended one, in the order of acceptance: what can go on by itself.
-- The suspended ones are walked once: searched for every turn, a long queue would be walked as often as it is long.
SELECT * FROM live_turns
WHERE actor_id NOT IN (SELECT actor_id FROM turns INDEXED BY turns_due WHERE state = 'suspended')
ORDER BY turn_id;

-- name: live_turns_of
-- An actor's, in the order of acceptance.
SELECT * FROM live_turns WHERE actor_id = ? ORDER BY turn_id;

-- name: live_turns_after
-- In the order of actors and their turns, which is nearly the index's: a page costs a page.
SELECT * FROM live_turns WHERE (actor_id, turn_id) > (?, ?) ORDER BY actor_id, turn_id LIMIT ?;

-- name: suspended_count
SELECT count(*) FROM turns INDEXED BY turns_due WHERE state = 'suspended';

-- name: due_turns
-- Suspended turns behind a place in the order of their deadlines whose deadline has come.
SELECT t.due_at, t.turn_id, a.tenant, a.session_id, a.agent_id
FROM turns t INDEXED BY turns_due JOIN actors a USING (actor_id)
WHERE t.state = 'suspended' AND (t.due_at, t.turn_id) > (?1, ?2) AND t.due_at <= ?3
ORDER BY t.due_at, t.turn_id LIMIT ?4;

-- name: next_due
SELECT min(due_at) FROM turns INDEXED BY turns_due WHERE state = 'suspended' AND due_at > ?;

-- name: waits_of
-- What a suspended turn stands on, with where its children are.
SELECT w.issued, w.kind, w.due_at, w.child_id, a.tenant, a.session_id, a.agent_id
FROM waits w LEFT JOIN turns c ON c.turn_id = w.child_id LEFT JOIN actors a ON a.actor_id = c.actor_id
WHERE w.turn_id = ? ORDER BY w.issued;

-- name: answered_children
-- Child turns that have ended, and whose parents stand on them still: nobody told them.
SELECT w.child_id, w.turn_id FROM waits w INDEXED BY waits_child JOIN turns c ON c.turn_id = w.child_id
WHERE w.child_id IS NOT NULL AND c.state IN ('completed', 'failed', 'cancelled')
ORDER BY w.child_id;

-- name: orphaned_children
-- Live child turns whose parents have ended: nobody waits for them.
SELECT t.turn_id FROM turns t INDEXED BY turns_children JOIN turns p ON p.turn_id = t.parent_id
WHERE t.parent_id IS NOT NULL AND t.state IN ('queued', 'running', 'suspended') AND p.state IN ('completed', 'failed', 'cancelled')
ORDER BY t.turn_id;

-- name: live_children_of
SELECT t.turn_id, a.tenant, a.session_id, a.agent_id
FROM turns t INDEXED BY turns_children JOIN actors a USING (actor_id)
WHERE t.parent_id = ? AND t.parent_id IS NOT NULL AND t.state IN ('queued', 'running', 'suspended') ORDER BY t.turn_id;

-- name: address_of_turn
SELECT a.tenant, a.session_id, a.agent_id FROM turns t JOIN actors a USING (actor_id) WHERE t.turn_id = ?;

-- name: live_turns_in_session
SELECT t.turn_id FROM actors a JOIN turns t INDEXED BY turns_live
    ON t.actor_id = a.actor_id AND t.state IN ('queued', 'running', 'suspended')
WHERE a.tenant = ? AND a.session_id = ? ORDER BY t.turn_id;

-- name: waiting_signal
-- The oldest signal of a name that no turn has taken.
SELECT signal_id, body FROM signals INDEXED BY signals_waiting
WHERE actor_id = ? AND name = ? AND taken_by IS NULL ORDER BY signal_id LIMIT 1;

-- name: ending_turns
-- Suspended turns that stand on child turns and about which a policy was resolved: somebody may have wanted their end.
SELECT w.turn_id FROM waits w INDEXED BY waits_child JOIN edges e ON e.turn_id = w.turn_id
WHERE w.child_id IS NOT NULL AND e.kind = 'policy_resolved'
GROUP BY w.turn_id;

-- name: signalled_turns
-- Suspended turns that stand on a signal, of actors that have one: they may have missed it. Found from the signals, as
-- waits may be many more.
SELECT DISTINCT t.turn_id
FROM (SELECT DISTINCT actor_id FROM signals INDEXED BY signals_waiting WHERE taken_by IS NULL) s
CROSS JOIN turns t INDEXED BY turns_live
    ON t.actor_id = s.actor_id AND t.state IN ('queued', 'running', 'suspended') AND t.state = 'suspended'
CROSS JOIN waits w INDEXED BY waits_turn ON w.turn_id = t.turn_id AND w.kind = 'signal'
ORDER BY t.turn_id;

-- name: waits_of_kind
-- What suspended turns stand on of a kind, behind a place in the order of turns and, of each, of its steps; of one
-- tenant and one session or, where either is null, of all.
SELECT w.turn_id, w.issued FROM waits w INDEXED BY waits_turn JOIN turns t USING (turn_id) JOIN actors a USING (actor_id)
WHERE w.kind = ?1 AND (w.turn_id, w.issued) > (?2, ?3) AND (?4 IS NULL OR a.tenant = ?4) AND (?5 IS NULL OR a.session_id = ?5)
ORDER BY w.turn_id, w.issued LIMIT ?6;

-- name: signal
SELECT signal_id, name, body, expires_at FROM signals WHERE actor_id = ? AND key = ? AND retired = 0;

-- name: signals
SELECT signal_id, actor_id, name, key, body, at, expires_at, digest, taken_by, retired FROM signals ORDER BY signal_id;

-- name: signals_waiting_count
SELECT count(*) FROM signals INDEXED BY signals_waiting WHERE actor_id = ? AND taken_by IS NULL;

-- name: handoffs_of
-- How often turns of a session were handed on, and when last from one agent to another.
SELECT count(*), max(at) FILTER (WHERE from_agent = ?3 AND to_agent = ?4) FROM handoffs
WHERE tenant = ?1 AND session_id = ?2;

-- name: actor_id
SELECT actor_id FROM actors WHERE tenant = ? AND session_id = ? AND agent_id = ?;

-- name: receipt
SELECT
    receipt_id, actor_id, key, turn_id, digest, state, duplicate_count, first_seen, last_seen, expires_at, arrived
FROM receipt_states WHERE actor_id = ? AND key = ? AND retired = 0;

-- name: joined_receipts
-- Those of the messages that have joined a turn.
SELECT
    receipt_id, actor_id, key, turn_id, digest, state, duplicate_count, first_seen, last_seen, expires_at, arrived,
    retired
FROM receipt_states WHERE turn_id = ?1 AND turn_id <> receipt_id ORDER BY receipt_id;

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

-- name: state_of
SELECT actor_id, version, body, turn_id, at, digest FROM states WHERE actor_id = ?;

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

-- name: running_turn_ids
SELECT turn_id FROM turns INDEXED BY turns_live
WHERE state IN ('queued', 'running', 'suspended') AND state = 'running' ORDER BY turn_id;

-- name: address_of
SELECT tenant, session_id, agent_id FROM actors WHERE actor_id = ?;

-- name: duplicated_turn_ids
SELECT turn_id FROM receipts WHERE duplicate_count > 0 ORDER BY receipt_id;

-- name: lease_of
SELECT CASE WHEN stopped_at IS NULL THEN lease_until END FROM nodes WHERE boot_id = ?;

-- name: prunable
-- Turns that ended before ?1 and whose keys answer nothing any more at ?2; never the newest turn or the newest edge's,
-- because numbers are counted on from them; and never a child turn whose parent may still have to be told of its end.
SELECT t.turn_id
FROM turns t JOIN deliverables d USING (turn_id) JOIN receipts r ON r.receipt_id = t.turn_id
WHERE t.state IN ('completed', 'failed', 'cancelled') AND d.at < ?1 AND r.expires_at <= ?2
    AND t.turn_id < (SELECT max(receipt_id) FROM receipts)
    AND t.turn_id <> (SELECT turn_id FROM edges ORDER BY edge_id DESC LIMIT 1)
    AND NOT EXISTS (
        SELECT 1 FROM receipts j WHERE j.turn_id = t.turn_id AND j.turn_id <> j.receipt_id
            AND (j.expires_at > ?2 OR j.receipt_id = (SELECT max(receipt_id) FROM receipts))
    )
    AND NOT EXISTS (
        SELECT 1 FROM turns p WHERE p.turn_id = t.parent_id AND p.state IN ('queued', 'running', 'suspended')
    )
    AND NOT EXISTS (SELECT 1 FROM waits w WHERE w.child_id = t.turn_id)
ORDER BY t.turn_id LIMIT ?3;

-- name: turn_pruned
-- Its edges, deliverable, receipt and blobs go with it, by trigger. It was chosen beside the writer: a turn that has come
-- to stand on it meanwhile keeps it.
DELETE FROM turns WHERE turn_id = ?1 AND NOT EXISTS (SELECT 1 FROM waits WHERE child_id = ?1);

-- name: signals_pruned
-- Signals that were taken and whose keys answer nothing any more; never the newest, from which numbers are counted on.
DELETE FROM signals
WHERE taken_by IS NOT NULL AND expires_at <= ? AND signal_id < (SELECT max(signal_id) FROM signals);

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
WHERE turn_id NOT IN (SELECT turn_id FROM turns) GROUP BY turn_id
UNION ALL
SELECT 'state of actor ' || actor_id, 'belongs to nobody' FROM states
WHERE actor_id NOT IN (SELECT actor_id FROM actors)
UNION ALL
SELECT 'turn ' || turn_id, 'has waits and no row' FROM waits
WHERE turn_id NOT IN (SELECT turn_id FROM turns) GROUP BY turn_id
UNION ALL
SELECT 'turn ' || turn_id, 'has waits and is ' || state FROM waits JOIN turns USING (turn_id)
WHERE state <> 'suspended' GROUP BY turn_id
UNION ALL
SELECT 'turn ' || turn_id, 'stands on turn ' || child_id || ', which is not there' FROM waits
WHERE child_id NOT IN (SELECT turn_id FROM turns)
UNION ALL
SELECT 'signal ' || signal_id, 'was sent to actor ' || actor_id || ', which is not there' FROM signals
WHERE actor_id NOT IN (SELECT actor_id FROM actors)
UNION ALL
SELECT 'signal ' || signal_id, 'was taken by turn ' || taken_by || ' of another actor'
FROM signals s JOIN turns t ON t.turn_id = s.taken_by WHERE t.actor_id <> s.actor_id
UNION ALL
SELECT 'handoff ' || turn_id, 'is to an agent whom nobody has spoken to' FROM handoffs h
WHERE NOT EXISTS (
    SELECT 1 FROM actors a
    WHERE a.tenant = h.tenant AND a.session_id = h.session_id AND a.agent_id = h.to_agent
)
UNION ALL
SELECT 'handoff ' || h.turn_id, 'is told of a turn of another agent'
FROM handoffs h JOIN turns t USING (turn_id) JOIN actors a USING (actor_id)
WHERE a.tenant <> h.tenant OR a.session_id <> h.session_id OR a.agent_id <> h.to_agent;
