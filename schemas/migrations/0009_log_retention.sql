-- migrate:up
-- Next to nothing to write, and enough to read the log in its order.
CREATE INDEX event_log_by_seq ON event_log USING brin (seq) WITH (autosummarize = on);

CREATE TABLE event_log_dropped (
    name text PRIMARY KEY,
    applied_before timestamptz NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE event_log_dropped IS 'Parts of the event log that are gone for good: what is older cannot be explained or rebuilt';
COMMENT ON COLUMN event_log_dropped.applied_before IS 'Its events were applied before this';

-- migrate:down
DROP TABLE event_log_dropped;
DROP INDEX event_log_by_seq;
