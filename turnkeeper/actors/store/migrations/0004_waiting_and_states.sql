-- Turns that wait, child turns, messages that join a turn, signals that come early, and what actors remember.

ALTER TABLE turns ADD COLUMN parent_id INTEGER; -- the turn that asked for this one

ALTER TABLE receipts ADD COLUMN arrived TEXT NOT NULL DEFAULT ''; -- what its arrival came to; '' before it was told

CREATE INDEX turns_due ON turns (due_at, turn_id) WHERE state = 'suspended';

CREATE INDEX turns_children ON turns (parent_id)
WHERE parent_id IS NOT NULL AND state IN ('queued', 'running', 'suspended');

CREATE INDEX receipts_joined ON receipts (turn_id) WHERE turn_id <> receipt_id;

-- What suspended turns stand on. A turn has such rows while it is suspended, and only then.
CREATE TABLE waits (
    wait_id INTEGER PRIMARY KEY,
    turn_id INTEGER NOT NULL REFERENCES turns,
    issued INTEGER NOT NULL, -- the place of its step among the turn's steps
    kind TEXT NOT NULL CHECK (kind IN ('approval', 'escalation', 'signal', 'timer', 'child', 'handoff', 'doubt')),
    due_at REAL NOT NULL,
    child_id INTEGER REFERENCES turns,
    CHECK ((kind IN ('child', 'handoff')) = (child_id IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX waits_turn ON waits (turn_id, issued);

CREATE INDEX waits_child ON waits (child_id) WHERE child_id IS NOT NULL;

CREATE TRIGGER waits_end AFTER UPDATE OF state ON turns
WHEN OLD.state = 'suspended' AND NEW.state <> 'suspended'
BEGIN
    DELETE FROM waits WHERE turn_id = OLD.turn_id;
END;

-- Until now there was one thing to stand on, and which step's does not matter: a turn has no second wait beside it.
INSERT INTO waits (turn_id, issued, kind, due_at) SELECT turn_id, 0, 'doubt', due_at FROM turns WHERE state = 'suspended';

-- Named messages to an actor: kept until a turn takes them, and then for as long as their keys answer.
CREATE TABLE signals (
    signal_id INTEGER PRIMARY KEY,
    actor_id INTEGER NOT NULL REFERENCES actors,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    at REAL NOT NULL,
    expires_at REAL NOT NULL,
    digest BLOB NOT NULL, -- over all before it
    taken_by INTEGER, -- the turn
    retired INTEGER NOT NULL DEFAULT 0 -- its key has been given to a later one
) STRICT;

CREATE UNIQUE INDEX signals_key ON signals (actor_id, key) WHERE retired = 0;

CREATE INDEX signals_waiting ON signals (actor_id, name, signal_id) WHERE taken_by IS NULL;

-- Handoffs within a session, for its limits: it has at most so many, ever. They outlive their turns, which may be pruned,
-- or a session would have as many again; and they are as few as the limit.
CREATE TABLE handoffs (
    turn_id INTEGER PRIMARY KEY, -- the receiver's
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    from_agent TEXT NOT NULL,
    to_agent TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;

CREATE INDEX handoffs_session ON handoffs (session_id, tenant);

DROP TRIGGER turns_go_whole;

-- A turn takes everything of its own with it, whoever deletes it: also the receipts of messages that joined it.
CREATE TRIGGER turns_go_whole AFTER DELETE ON turns
BEGIN
    DELETE FROM edges WHERE turn_id = OLD.turn_id;
    DELETE FROM deliverables WHERE turn_id = OLD.turn_id;
    DELETE FROM blobs WHERE turn_id = OLD.turn_id;
    DELETE FROM receipts WHERE receipt_id = OLD.turn_id;
    DELETE FROM receipts WHERE turn_id = OLD.turn_id AND turn_id <> receipt_id;
END;

DROP VIEW stored_turns;

-- A turn with its last edge's number and digest, and with the receipt that opened it: what readers look at.
CREATE VIEW stored_turns AS
SELECT
    t.turn_id, t.actor_id, t.state, t.epoch, t.version, t.attempt,
    coalesce(e.ordinal, -1) + 1 AS edges, t.boot_id, t.due_at, coalesce(e.digest, x'') AS last_digest,
    t.digest AS sealed,
    r.receipt_id, r.actor_id AS receipt_actor_id, r.key, r.turn_id AS receipt_turn_id, r.digest AS payload_digest,
    r.duplicate_count, r.first_seen, r.last_seen, r.expires_at, r.arrived, r.retired
FROM turns t
LEFT JOIN edges e
    ON e.turn_id = t.turn_id AND e.ordinal = (SELECT max(ordinal) FROM edges l WHERE l.turn_id = t.turn_id)
LEFT JOIN receipts r ON r.receipt_id = t.turn_id;

-- Of each what the last turn left. It outlives that turn, which may be pruned.
CREATE TABLE states (
    actor_id INTEGER PRIMARY KEY REFERENCES actors,
    version INTEGER NOT NULL, -- that its agent declared; another one's code brings it forward
    body BLOB NOT NULL,
    turn_id INTEGER NOT NULL,
    at REAL NOT NULL,
    digest BLOB NOT NULL
) STRICT;

-- A live turn with its last edge, its actor, its receipt and how many messages have joined it: what memory holds of it.
CREATE VIEW live_turns AS
SELECT
    t.turn_id, t.actor_id, t.state, t.epoch, t.version, t.attempt,
    e.ordinal + 1 AS edges, t.boot_id, t.due_at, e.digest AS last_digest,
    a.tenant, a.session_id, a.agent_id,
    r.key, r.digest AS payload_digest, r.expires_at, t.parent_id, r.arrived,
    (SELECT count(*) FROM receipts j WHERE j.turn_id = t.turn_id AND j.turn_id <> j.receipt_id) AS joined
FROM turns t INDEXED BY turns_live
JOIN edges e ON e.turn_id = t.turn_id AND e.ordinal = (SELECT max(ordinal) FROM edges l WHERE l.turn_id = t.turn_id)
JOIN actors a USING (actor_id)
JOIN receipts r ON r.receipt_id = t.turn_id
WHERE t.state IN ('queued', 'running', 'suspended');
