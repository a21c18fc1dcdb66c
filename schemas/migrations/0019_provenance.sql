-- migrate:up
ALTER TABLE dead_letters ADD COLUMN provenance text CHECK (provenance IN ('webhook', 'observation'));
COMMENT ON COLUMN dead_letters.provenance IS 'Where the event came from, as the message''s headers say and not its body: what a webhook sent is never applied as an observation; null where the headers say nothing';

-- Messages of older releases do not say. The quarantine holds what senders sent; a family got the type of
-- an observation from `stockhook reconcile` alone, unless a replay of something quarantined put it there.
-- The headers are compared as text, since JSON may hold what Postgres cannot take out of it.
WITH RECURSIVE traced AS (
    SELECT dead_letter_id,
        CASE
            WHEN lane <> 'quarantine' AND headers::text ~ '"x-event-type":"stockhook\.observed\.(part|return)"'
                THEN 'observation'
            ELSE 'webhook'
        END AS provenance
    FROM dead_letters
    WHERE replay_of IS NULL
    UNION ALL
    SELECT later.dead_letter_id, traced.provenance
    FROM dead_letters AS later
    JOIN traced ON later.replay_of = traced.dead_letter_id
)
UPDATE dead_letters
SET provenance = traced.provenance
FROM traced
WHERE dead_letters.dead_letter_id = traced.dead_letter_id AND dead_letters.provider IS NOT NULL;

-- migrate:down
ALTER TABLE dead_letters DROP COLUMN provenance;
