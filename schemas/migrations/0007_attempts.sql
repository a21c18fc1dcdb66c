-- migrate:up
ALTER TABLE event_log ADD COLUMN attempt smallint NOT NULL DEFAULT 1;
COMMENT ON COLUMN event_log.attempt IS 'The attempt that succeeded, from 1';

-- migrate:down
ALTER TABLE event_log DROP COLUMN attempt;
