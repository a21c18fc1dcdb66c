-- migrate:up transaction:false
-- Adds an index of the log by entity and time, replaces the index by entity, and adds a column.
--
-- One statement, which commits after the index of each month: consumers write to one month, and wait only
-- while the index of that month is built (about 2 s per 1,000,000 events). If it is too large for that, create
-- the index by hand before, and it is used:
-- CREATE INDEX CONCURRENTLY event_log_2026_11_by_time ON event_log_2026_11 (entity_id, occurred_at)
--
-- It can be repeated if it was interrupted.
DO $$
DECLARE
    month record;
BEGIN
    FOR month IN
        SELECT relname AS name
        FROM pg_class
        JOIN pg_inherits ON inhrelid = oid
        WHERE inhparent = 'event_log'::regclass
        ORDER BY relname
    LOOP
        EXECUTE format(
            'CREATE INDEX IF NOT EXISTS %I ON %I (entity_id, occurred_at)', month.name || '_by_time', month.name
        );
        COMMIT;
    END LOOP;

    -- Adopts the indexes of the months.
    CREATE INDEX IF NOT EXISTS event_log_by_time ON event_log (entity_id, occurred_at);
    DROP INDEX IF EXISTS event_log_by_entity;
    COMMENT ON INDEX event_log_by_time IS 'For the events of an entity, and for those next to a late one';

    ALTER TABLE parts ADD COLUMN IF NOT EXISTS summary json;
    COMMENT ON COLUMN parts.summary IS 'What the next status depends on besides the other columns, if the part was written off, has implausible timestamps or many events at one instant: so that its earlier events need not be read; null otherwise';
    COMMENT ON COLUMN parts.has_implausible IS 'Whether an event of the part has an implausible timestamp; its status is then decided from its summary';
END
$$;

-- migrate:down
ALTER TABLE parts DROP COLUMN summary;
COMMENT ON COLUMN parts.has_implausible IS 'Whether an event of the part has an implausible timestamp; its status is then computed from all its events';
CREATE INDEX event_log_by_entity ON event_log (entity_id);
DROP INDEX event_log_by_time;
