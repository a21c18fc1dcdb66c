-- migrate:up
ALTER TABLE changes ADD COLUMN size integer;
UPDATE changes SET size = json_array_length(convert_from(changes, 'UTF8')::json);
ALTER TABLE changes ALTER COLUMN size SET NOT NULL;
COMMENT ON COLUMN changes.size IS 'How many changes the row has';

CREATE TABLE change_counts (
    family text NOT NULL,
    fate text NOT NULL CHECK (fate IN ('committed', 'published')),
    slot smallint NOT NULL,
    changes bigint NOT NULL,
    PRIMARY KEY (family, fate, slot)
) WITH (fillfactor = 50);
COMMENT ON TABLE change_counts IS 'How many changes were ever committed, and how many the broker has confirmed: what is not in one of them waits in changes';
COMMENT ON COLUMN change_counts.slot IS 'The sum over all slots counts: who has one of their own wait for nobody else to commit';
INSERT INTO change_counts SELECT family, 'committed', 0, sum(size) FROM changes GROUP BY family;

CREATE TABLE webhooks (name text PRIMARY KEY, seen_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE webhooks IS 'Who was ever told of changes over HTTP: the queues of one who is no longer in the settings fill';
COMMENT ON COLUMN webhooks.seen_at IS 'When a process last began to deliver to it';

-- migrate:down
DROP TABLE webhooks;
DROP TABLE change_counts;
ALTER TABLE changes DROP COLUMN size;
