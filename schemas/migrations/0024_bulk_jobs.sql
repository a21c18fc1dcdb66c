-- migrate:up
CREATE TABLE bulk_jobs (
    job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('dry_run', 'replay', 'discard')),
    selection jsonb NOT NULL,
    last_id bigint NOT NULL,
    matched bigint NOT NULL,
    rate double precision,
    who text NOT NULL,
    reason text,
    resumed_by text,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'done', 'cancelled', 'stopped', 'failed')),
    is_cancel_requested boolean NOT NULL DEFAULT false,
    total bigint,
    position bigint NOT NULL DEFAULT 0,
    tally jsonb NOT NULL DEFAULT '{}',
    under_way bigint[] NOT NULL DEFAULT '{}',
    note text,
    starts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    progress_at timestamptz,
    ended_at timestamptz
);
COMMENT ON TABLE bulk_jobs IS 'Dry runs, replays and discards of many dead letters, which users of the console started';
COMMENT ON COLUMN bulk_jobs.job_id IS 'The number of the job';
COMMENT ON COLUMN bulk_jobs.kind IS 'dry_run, replay or discard';
COMMENT ON COLUMN bulk_jobs.selection IS 'The criteria for dead letters; a criterion that is missing matches all';
COMMENT ON COLUMN bulk_jobs.last_id IS 'The highest dead_letter_id that the job may take: letters that come back have higher ones';
COMMENT ON COLUMN bulk_jobs.matched IS 'How many dead letters matched when the job was made';
COMMENT ON COLUMN bulk_jobs.rate IS 'Of a replay, the maximum number of letters per second';
COMMENT ON COLUMN bulk_jobs.who IS 'The user who started the job';
COMMENT ON COLUMN bulk_jobs.reason IS 'The reason that the user gave; null if there is none';
COMMENT ON COLUMN bulk_jobs.resumed_by IS 'The user who resumed the job last; null if it never was';
COMMENT ON COLUMN bulk_jobs.state IS 'stopped: most letters failed again, or had no outcome; failed: an error, which the note names';
COMMENT ON COLUMN bulk_jobs.is_cancel_requested IS 'Whether a user cancelled the job while it ran';
COMMENT ON COLUMN bulk_jobs.total IS 'How many dead letters matched when the job first ran; null before';
COMMENT ON COLUMN bulk_jobs.position IS 'The highest dead_letter_id that the job has handled';
COMMENT ON COLUMN bulk_jobs.tally IS 'How many letters had which outcome, with examples';
COMMENT ON COLUMN bulk_jobs.under_way IS 'Replayed letters that are neither applied nor back';
COMMENT ON COLUMN bulk_jobs.note IS 'Why the job stopped, failed or waits; null if it did not';
COMMENT ON COLUMN bulk_jobs.starts IS 'How often a process took the job up: a process that lost it writes nothing more';
COMMENT ON COLUMN bulk_jobs.created_at IS 'When the user started the job';
COMMENT ON COLUMN bulk_jobs.started_at IS 'When the job first ran; null before';
COMMENT ON COLUMN bulk_jobs.progress_at IS 'When the job last handled letters or counted an outcome';
COMMENT ON COLUMN bulk_jobs.ended_at IS 'When the job ended; null before';
CREATE INDEX bulk_jobs_open ON bulk_jobs (job_id) WHERE state IN ('queued', 'running');
COMMENT ON COLUMN operator_audit.subject IS 'To what it was done; of family.paused and family.resumed, the family; of job.started, job.cancelled and job.resumed, the job';

-- migrate:down
COMMENT ON COLUMN operator_audit.subject IS 'To what it was done; of family.paused and family.resumed, the family';
DROP TABLE bulk_jobs;
