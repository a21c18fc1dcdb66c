-- migrate:up
-- The audit trail is read from the newest record backwards, in both tables.
CREATE INDEX dead_letter_audit_by_time ON dead_letter_audit (at, audit_id);
COMMENT ON INDEX dead_letter_audit_by_time IS 'For the audit trail, which lists the newest records first';
CREATE INDEX operator_audit_by_time ON operator_audit (at, audit_id);
COMMENT ON INDEX operator_audit_by_time IS 'For the audit trail, which lists the newest records first';

-- migrate:down
DROP INDEX operator_audit_by_time;
DROP INDEX dead_letter_audit_by_time;
