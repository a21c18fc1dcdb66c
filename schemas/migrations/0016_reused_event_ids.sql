-- migrate:up
-- Adds three columns and a table. The ALTERs need an ACCESS EXCLUSIVE lock on event_ids, event_log and
-- dead_letters for a moment and rewrite nothing; the INSERT reads the log once and blocks nobody (a few seconds for
-- 2,000,000 rows).
--
-- An id is no key by itself: what comes under an id that is taken, with other content, is an event of its
-- own. It stands here under the id that it came with. Consumers of earlier releases logged such an event
-- under an id that they derived from both (event_log.reuse_of); no id is derived any more.
CREATE TABLE reused_event_ids (
    event_id uuid NOT NULL,
    provider text NOT NULL,
    content_id uuid NOT NULL,
    PRIMARY KEY (event_id, provider, content_id)
);
COMMENT ON TABLE reused_event_ids IS 'Applied events whose id event_ids has with other content, or from another marketplace';

ALTER TABLE event_ids ADD COLUMN provider text;
COMMENT ON COLUMN event_ids.provider IS 'Null in rows that are older than this column';

ALTER TABLE event_log ADD COLUMN content_id uuid;
COMMENT ON COLUMN event_log.content_id IS 'Set where the event is in reused_event_ids; null where it is the one in event_ids';
COMMENT ON COLUMN event_log.reuse_of IS 'Of events that earlier releases logged under a derived id: the id that they came with';

INSERT INTO reused_event_ids (event_id, provider, content_id)
SELECT event_log.reuse_of, event_log.provider, event_ids.content_id
FROM event_log
JOIN event_ids USING (event_id)
WHERE event_log.reuse_of IS NOT NULL
ON CONFLICT DO NOTHING;

ALTER TABLE dead_letters ADD COLUMN replayed_content_id uuid;
COMMENT ON COLUMN dead_letters.replayed_content_id IS 'With replayed_as, the event as which it was last replayed';

-- migrate:down
ALTER TABLE dead_letters DROP COLUMN replayed_content_id;
WITH renamed AS (
    UPDATE event_log
    SET reuse_of = event_id, event_id = gen_random_uuid()
    WHERE content_id IS NOT NULL
    RETURNING event_id, content_id
)
INSERT INTO event_ids (event_id, content_id)
SELECT event_id, content_id
FROM renamed;
ALTER TABLE event_log DROP COLUMN content_id;
ALTER TABLE event_ids DROP COLUMN provider;
DROP TABLE reused_event_ids;
