-- migrate:up
CREATE TABLE event_log (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    event_id uuid PRIMARY KEY,
    content_id uuid NOT NULL,
    reuse_of uuid,
    provider text NOT NULL,
    type text NOT NULL,
    family text NOT NULL,
    entity_id text NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    body bytea NOT NULL
);
COMMENT ON TABLE event_log IS 'Every event that was applied, once; projections can be rebuilt from it';
COMMENT ON COLUMN event_log.seq IS 'Order of logging; gaps are normal';
COMMENT ON COLUMN event_log.content_id IS 'UUIDv5 of what the event says: the same id with other content is an id used twice';
COMMENT ON COLUMN event_log.reuse_of IS 'The id under which the event came, where another event had it already';
COMMENT ON COLUMN event_log.body IS 'As received, the token cut out and bank details sealed';
CREATE INDEX event_log_by_family ON event_log (family, seq);
CREATE INDEX event_log_by_entity ON event_log (family, entity_id, occurred_at);

CREATE TABLE findings (
    finding_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    family text NOT NULL,
    entity_id text NOT NULL,
    event_id uuid,
    words text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (family, entity_id, kind, event_id)
);
COMMENT ON TABLE findings IS 'What was odd but true: applied as far as the rules allow, and noted here';
COMMENT ON COLUMN findings.event_id IS 'The event it is about; null where it is about the entity as a whole';

-- migrate:down
DROP TABLE findings;
DROP TABLE event_log;
