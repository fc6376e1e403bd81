-- Digests over histories, large values in a table of their own, and turns that may go once they are over.

ALTER TABLE edges ADD COLUMN digest BLOB NOT NULL DEFAULT x'';

ALTER TABLE turns ADD COLUMN digest BLOB;

CREATE TABLE blobs (
    blob_id INTEGER PRIMARY KEY,
    turn_id INTEGER NOT NULL,
    ordinal INTEGER NOT NULL, -- of the edge whose detail it is; -1 is the deliverable's body
    body BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX blobs_turn ON blobs (turn_id, ordinal);

DROP TRIGGER edges_never_go;

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

-- A turn takes everything of its own with it, whoever deletes it.
CREATE TRIGGER turns_go_whole AFTER DELETE ON turns
BEGIN
    DELETE FROM edges WHERE turn_id = OLD.turn_id;
    DELETE FROM deliverables WHERE turn_id = OLD.turn_id;
    DELETE FROM blobs WHERE turn_id = OLD.turn_id;
    DELETE FROM receipts WHERE receipt_id = OLD.turn_id;
END;

-- A turn with its last edge's number and digest, and with the receipt that opened it: what readers look at.
CREATE VIEW stored_turns AS
SELECT
    t.turn_id, t.actor_id, t.state, t.epoch, t.version, t.attempt,
    coalesce(e.ordinal, -1) + 1 AS edges, t.boot_id, t.due_at, coalesce(e.digest, x'') AS last_digest,
    t.digest AS sealed,
    r.receipt_id, r.actor_id AS receipt_actor_id, r.key, r.turn_id AS receipt_turn_id, r.digest AS payload_digest,
    r.duplicate_count, r.first_seen, r.last_seen, r.expires_at, r.retired
FROM turns t
LEFT JOIN edges e
    ON e.turn_id = t.turn_id AND e.ordinal = (SELECT max(ordinal) FROM edges l WHERE l.turn_id = t.turn_id)
LEFT JOIN receipts r ON r.receipt_id = t.turn_id;
