-- What is wanted of agents and children, and what became of them.

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
