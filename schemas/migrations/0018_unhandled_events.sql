-- migrate:up
CREATE TABLE unhandled_events (
    unhandled_event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    type text NOT NULL,
    event_id uuid NOT NULL,
    content_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    body bytea NOT NULL,
    UNIQUE (provider, event_id, content_id)
);
COMMENT ON TABLE unhandled_events IS 'Authentic, well-formed events of types that no family takes; they stay for STOCKHOOK_UNHANDLED_DAYS, or until they are replayed';
COMMENT ON COLUMN unhandled_events.type IS 'As the marketplace spells it: the first 200 characters, without those that cannot be shown';
COMMENT ON COLUMN unhandled_events.event_id IS 'The id that was answered to the sender';
COMMENT ON COLUMN unhandled_events.content_id IS 'UUIDv5 of all that the event says: the same event sent again is here once';
COMMENT ON COLUMN unhandled_events.kept_at IS 'From when on the days count: a dead letter that was moved here may have been received long before';
COMMENT ON COLUMN unhandled_events.body IS 'Of Ovoko as received; of Buyback without its token and encrypted whole, since nobody knows where personal data is in it';
CREATE INDEX unhandled_events_by_type ON unhandled_events (provider, type, unhandled_event_id);
CREATE INDEX unhandled_events_by_kept_at ON unhandled_events (kept_at);

-- migrate:down
DROP TABLE unhandled_events;
