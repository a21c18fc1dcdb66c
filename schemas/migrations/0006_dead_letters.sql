-- migrate:up
CREATE TABLE dead_letters (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_key uuid NOT NULL UNIQUE,
    lane text NOT NULL,
    state text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'replaying', 'replayed', 'discarded')),
    event_id uuid NOT NULL,
    provider text,
    type text NOT NULL,
    entity_id text,
    reason text NOT NULL,
    exception text,
    fingerprint text NOT NULL,
    attempts bigint NOT NULL,
    received_at timestamptz,
    first_failed_at timestamptz,
    last_failed_at timestamptz,
    arrived_at timestamptz NOT NULL DEFAULT now(),
    headers json NOT NULL,
    body bytea NOT NULL,
    original_body bytea,
    replayed_as uuid,
    replay_of bigint REFERENCES dead_letters
);
COMMENT ON TABLE dead_letters IS 'Every message that came to a dead-letter queue or the quarantine; none goes before somebody saw to it';
COMMENT ON COLUMN dead_letters.message_key IS 'Made from the message''s own id and bytes: what is delivered twice is here once';
COMMENT ON COLUMN dead_letters.lane IS 'The family whose dead letter it is, or quarantine';
COMMENT ON COLUMN dead_letters.state IS 'replaying: it is about to be published, or was, and the command ended before it could say so';
COMMENT ON COLUMN dead_letters.fingerprint IS 'Eight hex digits, the same for failures of one kind';
COMMENT ON COLUMN dead_letters.body IS 'Without token, bank details sealed; a trade-in body that was no JSON is sealed whole';
COMMENT ON COLUMN dead_letters.original_body IS 'As it came, once it was edited or mended';
COMMENT ON COLUMN dead_letters.replayed_as IS 'The event id under which it was last replayed';
COMMENT ON COLUMN dead_letters.replay_of IS 'The dead letter whose replay came back as this one';
CREATE INDEX dead_letters_by_state ON dead_letters (state, lane, dead_letter_id);
CREATE INDEX dead_letters_by_fingerprint ON dead_letters (fingerprint);
CREATE INDEX dead_letters_by_replayed_as ON dead_letters (replayed_as) WHERE replayed_as IS NOT NULL;
CREATE INDEX dead_letters_by_replay_of ON dead_letters (replay_of) WHERE replay_of IS NOT NULL;

CREATE TABLE dead_letter_audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_letter_id bigint NOT NULL REFERENCES dead_letters,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    action text NOT NULL CHECK (action IN ('revealed', 'edited', 'mended', 'discarded', 'replayed')),
    reason text
);
COMMENT ON TABLE dead_letter_audit IS 'Who looked at, changed, discarded or replayed a dead letter';
COMMENT ON COLUMN dead_letter_audit.who IS 'The user of the operating system, and the machine';
CREATE INDEX dead_letter_audit_by_letter ON dead_letter_audit (dead_letter_id);

-- migrate:down
DROP TABLE dead_letter_audit;
DROP TABLE dead_letters;
