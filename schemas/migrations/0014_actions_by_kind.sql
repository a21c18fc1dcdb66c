-- migrate:up
DROP INDEX actions_to_publish;
CREATE INDEX actions_to_publish ON actions (kind, created_at) WHERE published_at IS NULL AND state = 'due';
CREATE INDEX actions_in_queue ON actions (kind)
    WHERE published_at IS NOT NULL AND state = 'due' AND attempts = 0;

-- migrate:down
DROP INDEX actions_in_queue;
DROP INDEX actions_to_publish;
CREATE INDEX actions_to_publish ON actions (created_at) WHERE published_at IS NULL AND state = 'due';
