-- migrate:up
CREATE TABLE paused_families (
    family text PRIMARY KEY,
    reason text NOT NULL,
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE paused_families IS 'Families that a user paused: no consumer process takes events from their queues until they are resumed';
COMMENT ON COLUMN paused_families.family IS 'The family';
COMMENT ON COLUMN paused_families.reason IS 'The reason that the user gave';
COMMENT ON COLUMN paused_families.paused_by IS 'The user of the operating system and the machine, or the user of the console';
COMMENT ON COLUMN paused_families.paused_at IS 'When the family was paused';

CREATE TABLE operator_audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    reason text
);
COMMENT ON TABLE operator_audit IS 'What operators did, such as pausing a family; dead_letter_audit has what they did to dead letters';
COMMENT ON COLUMN operator_audit.audit_id IS 'The number of the record';
COMMENT ON COLUMN operator_audit.at IS 'When it was done';
COMMENT ON COLUMN operator_audit.who IS 'The user of the operating system and the machine, or the user of the console';
COMMENT ON COLUMN operator_audit.action IS 'What was done, such as family.paused or family.resumed';
COMMENT ON COLUMN operator_audit.subject IS 'To what it was done; of family.paused and family.resumed, the family';
COMMENT ON COLUMN operator_audit.reason IS 'The reason that the user gave; null if there is none';

-- migrate:down
DROP TABLE operator_audit;
DROP TABLE paused_families;
