-- migrate:up
CREATE TABLE streams (
    stream bigint NOT NULL,
    family text NOT NULL,
    seen int8multirange NOT NULL DEFAULT '{}',
    retrying int8multirange NOT NULL DEFAULT '{}',
    dead int8multirange NOT NULL DEFAULT '{}',
    voided int8multirange NOT NULL DEFAULT '{}',
    applied bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    last_received_at timestamptz,
    PRIMARY KEY (stream, family)
);
COMMENT ON TABLE streams IS 'What became of each place that an ingest gave out: a stream is one ingest process, or one spool file';
COMMENT ON COLUMN streams.seen IS 'Places whose event is applied, or was before';
COMMENT ON COLUMN streams.retrying IS 'Places whose event was last sent to a retry step';
COMMENT ON COLUMN streams.dead IS 'Places whose event was sent to the dead letters';
COMMENT ON COLUMN streams.voided IS 'Places that were given out and then not used: the event was spooled, or refused';

CREATE TABLE suspects (
    event_id uuid PRIMARY KEY,
    family text NOT NULL,
    tries integer NOT NULL,
    last_tried_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE suspects IS 'Redelivered events while each is handled alone: one that stays here killed its consumer';

-- migrate:down
DROP TABLE suspects;
DROP TABLE streams;
