-- The whole schema as it stands: what the migrations, in order, amount to (a test compares them).
-- The database guards the contract by itself: states, one running turn per actor, one deliverable per turn,
-- terminal if and only if delivered, edges that are only ever appended.

CREATE TABLE store (
    store_id TEXT PRIMARY KEY,
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE nodes (
    boot_id INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    started_at REAL NOT NULL,
    lease_until REAL NOT NULL,
    stopped_at REAL
) STRICT;

CREATE TABLE actors (
    actor_id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    UNIQUE (session_id, agent_id, tenant)
) STRICT;

CREATE TABLE turns (
    turn_id INTEGER PRIMARY KEY,
    actor_id INTEGER NOT NULL REFERENCES actors,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    boot_id INTEGER REFERENCES nodes,
    due_at REAL,
    deliverable_id INTEGER REFERENCES deliverables, -- written first: a deferred check would scan this table
    digest BLOB, -- over its history and its deliverable, once it has one
    parent_id INTEGER, -- the turn that asked for this one
    CHECK ((state = 'running') = (boot_id IS NOT NULL)),
    CHECK (state <> 'suspended' OR due_at IS NOT NULL),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (deliverable_id IS NOT NULL)),
    CHECK (deliverable_id IS NULL OR deliverable_id = turn_id)
) STRICT;

-- Lists the live turns, and lets an actor have one running turn: all of its running turns would be number 0.
-- One index for both, because each index a turn enters and leaves costs two pages of its commits.
CREATE UNIQUE INDEX turns_live ON turns (actor_id, CASE state WHEN 'running' THEN 0 ELSE turn_id END)
WHERE state IN ('queued', 'running', 'suspended');

CREATE INDEX turns_due ON turns (due_at, turn_id) WHERE state = 'suspended';

CREATE INDEX turns_children ON turns (parent_id)
WHERE parent_id IS NOT NULL AND state IN ('queued', 'running', 'suspended');

CREATE TABLE deliverables (
    turn_id INTEGER PRIMARY KEY REFERENCES turns,
    outcome TEXT NOT NULL CHECK (outcome IN ('completed', 'failed', 'cancelled')),
    body BLOB NOT NULL,
    at REAL NOT NULL
) STRICT;

-- One number an inbound: a receipt that opened a turn has that turn's id.
CREATE TABLE receipts (
    receipt_id INTEGER PRIMARY KEY,
    actor_id INTEGER NOT NULL REFERENCES actors,
    key TEXT NOT NULL,
    turn_id INTEGER NOT NULL REFERENCES turns,
    digest BLOB NOT NULL,
    duplicate_count INTEGER NOT NULL DEFAULT 0,
    first_seen REAL NOT NULL,
    last_seen REAL NOT NULL,
    expires_at REAL NOT NULL,
    retired INTEGER NOT NULL DEFAULT 0,
    arrived TEXT NOT NULL DEFAULT '' -- what its arrival came to; '' before it was told
) STRICT;

CREATE UNIQUE INDEX receipts_key ON receipts (actor_id, key) WHERE retired = 0;

CREATE INDEX receipts_joined ON receipts (turn_id) WHERE turn_id <> receipt_id;

CREATE TABLE edges (
    edge_id INTEGER PRIMARY KEY,
    turn_id INTEGER NOT NULL, -- no REFERENCES: the statement that appends an edge selects it from its turn
    ordinal INTEGER NOT NULL,
    kind TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    at REAL NOT NULL,
    detail BLOB NOT NULL,
    digest BLOB NOT NULL DEFAULT x'' -- over this edge and, through the one before it, over all before it
) STRICT;

CREATE UNIQUE INDEX edges_turn ON edges (turn_id, ordinal);

-- Values too large for their row, which then holds one byte in their place.
CREATE TABLE blobs (
    blob_id INTEGER PRIMARY KEY,
    turn_id INTEGER NOT NULL,
    ordinal INTEGER NOT NULL, -- of the edge whose detail it is; -1 is the deliverable's body
    body BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX blobs_turn ON blobs (turn_id, ordinal);

CREATE TRIGGER edges_never_change BEFORE UPDATE ON edges
BEGIN
    SELECT RAISE(ABORT, 'edges are append-only');
END;

CREATE TRIGGER edges_never_go BEFORE DELETE ON edges
WHEN EXISTS (SELECT 1 FROM turns WHERE turn_id = OLD.turn_id)
BEGIN
    SELECT RAISE(ABORT, 'edges are append-only; they go with their turn');
END;

CREATE TRIGGER turns_live_never_go BEFORE DELETE ON turns
WHEN OLD.state IN ('queued', 'running', 'suspended')
BEGIN
    SELECT RAISE(ABORT, 'a live turn is never pruned');
END;

-- A turn takes everything of its own with it, whoever deletes it: also the receipts of messages that joined it.
CREATE TRIGGER turns_go_whole AFTER DELETE ON turns
BEGIN
    DELETE FROM edges WHERE turn_id = OLD.turn_id;
    DELETE FROM deliverables WHERE turn_id = OLD.turn_id;
    DELETE FROM blobs WHERE turn_id = OLD.turn_id;
    DELETE FROM receipts WHERE receipt_id = OLD.turn_id;
    DELETE FROM receipts WHERE turn_id = OLD.turn_id AND turn_id <> receipt_id;
END;

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

-- What is wanted of agents and children of supervisors, each by its path; of what has no row, that it runs.
CREATE TABLE desired (
    path TEXT PRIMARY KEY CHECK (length(CAST(path AS BLOB)) BETWEEN 1 AND 4096),
    desired TEXT NOT NULL CHECK (desired IN ('running', 'paused', 'stopped', 'quarantined')),
    reason TEXT NOT NULL CHECK (length(CAST(reason AS BLOB)) <= 1000),
    at REAL NOT NULL,
    changed_by TEXT NOT NULL CHECK (length(CAST(changed_by AS BLOB)) <= 1000),
    digest BLOB NOT NULL
) STRICT;

-- What became of them: the newest events of a path, and of all. Kinds are closed by a CHECK, which with the edges would
-- be too dear to change: this table is small enough to be made anew by the migration that brings a kind.
CREATE TABLE child_events (
    event_id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    boot_id INTEGER NOT NULL REFERENCES nodes,
    path TEXT NOT NULL CHECK (length(CAST(path AS BLOB)) BETWEEN 1 AND 4096),
    kind TEXT NOT NULL CHECK (kind IN (
        'started', 'exited', 'crashed', 'restarted', 'ended', 'suspected', 'recovered', 'died', 'stalled', 'blocked',
        'escalated', 'joined', 'left', 'taken_over', 'paused', 'resumed', 'stopped', 'quarantined', 'released'
    )),
    incarnation INTEGER NOT NULL CHECK (incarnation >= 0),
    detail BLOB NOT NULL CHECK (length(detail) <= 4096),
    digest BLOB NOT NULL
) STRICT;

CREATE INDEX child_events_path ON child_events (path);

CREATE TRIGGER child_events_never_change BEFORE UPDATE ON child_events
BEGIN
    SELECT RAISE(ABORT, 'child events are append-only');
END;

CREATE TRIGGER child_events_stay BEFORE DELETE ON child_events
WHEN OLD.event_id > (SELECT max(event_id) FROM child_events) - 10000
    AND (SELECT count(*) FROM child_events WHERE path = OLD.path AND event_id > OLD.event_id) < 200
BEGIN
    SELECT RAISE(ABORT, 'child events go only once there are too many');
END;

-- A child that falls again and again fills no disk, and takes no other child's events away before there are many.
CREATE TRIGGER child_events_go AFTER INSERT ON child_events
BEGIN
    DELETE FROM child_events WHERE path = NEW.path AND event_id <= (
        SELECT event_id FROM child_events WHERE path = NEW.path ORDER BY event_id DESC LIMIT 1 OFFSET 200
    );
    DELETE FROM child_events WHERE event_id <= NEW.event_id - 10000;
END;

-- What actors remember between turns, of each what the last turn left. It outlives that turn, which may be pruned.
CREATE TABLE states (
    actor_id INTEGER PRIMARY KEY REFERENCES actors,
    version INTEGER NOT NULL, -- that its agent declared; another one's code brings it forward
    body BLOB NOT NULL,
    turn_id INTEGER NOT NULL,
    at REAL NOT NULL,
    digest BLOB NOT NULL
) STRICT;

-- A receipt's state is its turn's, in other words: stored once, so the two cannot disagree.
CREATE VIEW receipt_states AS
SELECT
    receipts.*,
    CASE turns.state
        WHEN 'queued' THEN 'accepted'
        WHEN 'running' THEN 'processing'
        WHEN 'suspended' THEN 'processing'
        ELSE turns.state
    END AS state
FROM receipts JOIN turns USING (turn_id);

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
