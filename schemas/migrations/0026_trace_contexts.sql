-- migrate:up
-- Adds nullable columns, which older releases ignore. Each ALTER needs an ACCESS EXCLUSIVE lock on its table for a
-- moment and rewrites nothing.
ALTER TABLE actions ADD COLUMN traceparent text, ADD COLUMN published_traceparent text;
COMMENT ON COLUMN actions.traceparent IS 'The traceparent of the event that caused the action; null if its trace is not recorded, or if a person requested the action';
COMMENT ON COLUMN actions.published_traceparent IS 'The traceparent of the latest publish whose trace is recorded: the attempts are in its trace; null if there is none';
ALTER TABLE unhandled_events ADD COLUMN traceparent text;
COMMENT ON COLUMN unhandled_events.traceparent IS 'The traceparent of the first publish; null if it had none';

-- migrate:down
ALTER TABLE unhandled_events DROP COLUMN traceparent;
ALTER TABLE actions DROP COLUMN published_traceparent, DROP COLUMN traceparent;
