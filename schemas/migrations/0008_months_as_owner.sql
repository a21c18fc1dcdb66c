-- migrate:up
-- A consumer adds months without owning the log: the function acts as its owner, and finds tables in
-- the log's schema alone.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION add_event_log_months(timestamptz, timestamptz) '
        'SECURITY DEFINER SET search_path = %I, pg_temp',
        current_schema()
    );
END
$$;

-- migrate:down
ALTER FUNCTION add_event_log_months(timestamptz, timestamptz) SECURITY INVOKER RESET search_path;
