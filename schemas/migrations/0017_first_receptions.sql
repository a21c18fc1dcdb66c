-- migrate:up
-- Adds columns and a function. Each ALTER needs an ACCESS EXCLUSIVE lock on its table for a moment and rewrites nothing.
ALTER TABLE event_ids ADD COLUMN received_at timestamptz;
COMMENT ON COLUMN event_ids.received_at IS 'Of the copy that was logged; null in rows that are older than this column';

ALTER TABLE reused_event_ids ADD COLUMN received_at timestamptz;
COMMENT ON COLUMN reused_event_ids.received_at IS 'As in event_ids';

COMMENT ON COLUMN event_log.received_at IS 'The first reception: the earliest of all copies of the event';
COMMENT ON COLUMN event_log.occurred_at IS 'As the sender says; one that is later than received_at by more than the tolerance is implausible';

ALTER TABLE parts ADD COLUMN has_implausible boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN parts.has_implausible IS 'Whether an event of it has an implausible timestamp: then its status is computed from all its events';
COMMENT ON COLUMN parts.occurred_at IS 'When it came to its status; of an implausible timestamp, the first reception';

-- Consumers may change nothing else of the log: the function acts as the log's owner, and finds tables in
-- its schema alone. Gives back the numbers, from 1, of the events that were received earlier than known.
CREATE FUNCTION keep_earlier_receptions(
    event_ids uuid[], content_ids uuid[], entity_ids text[], receptions timestamptz[], of_family text
) RETURNS SETOF bigint
LANGUAGE sql AS $$
WITH told AS (
    SELECT *
    FROM unnest(event_ids, content_ids, entity_ids, receptions) WITH ORDINALITY
        AS told (event_id, content_id, entity_id, received_at, number)
), known AS (
    SELECT logged.seq, logged.applied_at, told.*
    FROM told
    JOIN event_log AS logged
        ON logged.entity_id = told.entity_id AND coalesce(logged.reuse_of, logged.event_id) = told.event_id
    JOIN event_ids AS ids ON ids.event_id = logged.event_id
    WHERE logged.family = of_family
        AND coalesce(logged.content_id, ids.content_id) = told.content_id
        AND logged.received_at > told.received_at
)
UPDATE event_log AS logged
SET received_at = known.received_at
FROM known
WHERE logged.entity_id = known.entity_id
    AND logged.applied_at = known.applied_at
    AND logged.seq = known.seq
    AND logged.received_at > known.received_at
RETURNING known.number
$$;
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION keep_earlier_receptions(uuid[], uuid[], text[], timestamptz[], text) '
        'SECURITY DEFINER SET search_path = %I, pg_temp',
        current_schema()
    );
END
$$;

-- migrate:down
DROP FUNCTION keep_earlier_receptions(uuid[], uuid[], text[], timestamptz[], text);
ALTER TABLE parts DROP COLUMN has_implausible;
ALTER TABLE reused_event_ids DROP COLUMN received_at;
ALTER TABLE event_ids DROP COLUMN received_at;
