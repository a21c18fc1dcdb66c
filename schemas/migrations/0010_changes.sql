-- migrate:up
-- Whoever publishes the changes of a family locks its row: so the changes of one entity go out in their
-- order, however many publish.
CREATE TABLE change_lanes (family text PRIMARY KEY);
COMMENT ON TABLE change_lanes IS 'What relays lock, one row a family';
INSERT INTO change_lanes VALUES ('inventory'), ('orders'), ('returns'), ('buybacks'), ('reminders');

CREATE TABLE changes (
    family text NOT NULL,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    batch_id uuid NOT NULL DEFAULT gen_random_uuid(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    changes bytea NOT NULL,
    PRIMARY KEY (family, sequence)
);
-- It lives for milliseconds: not worth packing.
ALTER TABLE changes ALTER COLUMN changes SET STORAGE EXTERNAL;
COMMENT ON TABLE changes IS 'Changes that are still to be published, a row for each batch; written with them, deleted once the broker has confirmed them';
COMMENT ON COLUMN changes.sequence IS 'Of one entity, later changes have greater ones';
COMMENT ON COLUMN changes.batch_id IS 'With the place in the batch, the id by which a subscriber knows a change that it was told twice';
COMMENT ON COLUMN changes.changes IS 'JSON: an array of type, subject, event_id, occurred_at, before and after';

-- migrate:down
DROP TABLE changes;
DROP TABLE change_lanes;
