-- migrate:up
CREATE TABLE actions (
    action_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind text NOT NULL,
    key text NOT NULL UNIQUE,
    subject text NOT NULL,
    request bytea NOT NULL,
    is_sealed boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'due'
        CHECK (state IN ('due', 'doing', 'done', 'refused', 'failed', 'unknown')),
    attempts bigint NOT NULL DEFAULT 0,
    event_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    begun_at timestamptz,
    finished_at timestamptz,
    outcome json
);
COMMENT ON TABLE actions IS 'What is asked of a marketplace, once for each key: by an event, or by a person';
COMMENT ON COLUMN actions.key IS 'Idempotency key: who asks for the same again finds this action';
COMMENT ON COLUMN actions.subject IS 'The entity that it is about: an order, a return, a part';
COMMENT ON COLUMN actions.request IS 'JSON; a Fernet token of it where it is sealed, and empty once that is done';
COMMENT ON COLUMN actions.state IS 'doing: a request that must not be repeated may be under way; unknown: it may have been taken, and nobody knows';
COMMENT ON COLUMN actions.attempts IS 'The number of the last attempt, from 1';
COMMENT ON COLUMN actions.event_id IS 'The event that called for it; none where a person did';
COMMENT ON COLUMN actions.published_at IS 'When the broker confirmed it on the queue stockhook.actions; none: it is to be published';
COMMENT ON COLUMN actions.begun_at IS 'When the request that must not be repeated was begun';
COMMENT ON COLUMN actions.outcome IS 'What came of it, or why not yet; no datum of a customer';
CREATE INDEX actions_to_publish ON actions (created_at) WHERE published_at IS NULL AND state = 'due';
CREATE INDEX actions_by_state ON actions (state, created_at);
CREATE INDEX actions_by_subject ON actions (subject, created_at);

-- migrate:down
DROP TABLE actions;
