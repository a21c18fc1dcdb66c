-- migrate:up
-- Whoever publishes the changes of a lane locks the lane's row: so the changes of one entity, which are
-- all in one lane, go out in their order, however many publish.
CREATE TABLE change_lanes (lane smallint PRIMARY KEY);
COMMENT ON TABLE change_lanes IS 'What relays lock: each entity has its changes in one lane';
INSERT INTO change_lanes SELECT generate_series(0, 15);

CREATE TABLE changes (
    -- References nothing: to look there would wait for whoever publishes the lane.
    lane smallint NOT NULL,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    change_id uuid NOT NULL DEFAULT gen_random_uuid(),
    type text NOT NULL,
    subject text NOT NULL,
    occurred_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    data bytea NOT NULL,
    PRIMARY KEY (lane, sequence)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
COMMENT ON TABLE changes IS 'Changes of projections that are still to be published; written with the change, deleted once the broker has confirmed';
COMMENT ON COLUMN changes.sequence IS 'In the order of the changes of one entity';
COMMENT ON COLUMN changes.change_id IS 'By which a subscriber knows a change that it was told twice';
COMMENT ON COLUMN changes.subject IS 'The entity''s id at the marketplace';
COMMENT ON COLUMN changes.data IS 'JSON: the event, the state before and after';

-- migrate:down
DROP TABLE changes;
DROP TABLE change_lanes;
