-- migrate:up
-- revision counts the writes of a row: a write that does not follow the revision it was computed
-- from changes nothing, and its batch is repeated.
CREATE TABLE parts (
    part_id text PRIMARY KEY,
    external_id text,
    external_id_at timestamptz,
    status text NOT NULL,
    is_sellable boolean NOT NULL GENERATED ALWAYS AS (status = 'in_warehouse') STORED,
    occurred_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    revision bigint NOT NULL
);
COMMENT ON TABLE parts IS 'Used car parts and their latest stock status';
COMMENT ON COLUMN parts.external_id IS 'The merchant''s own id, from the newest event that named one (external_id_at)';

CREATE TABLE orders (
    order_id text PRIMARY KEY,
    status text NOT NULL GENERATED ALWAYS AS (
        CASE WHEN cancelled_at IS NULL THEN 'created' ELSE 'cancelled' END
    ) STORED,
    created_at timestamptz,
    cancelled_at timestamptz,
    revision bigint NOT NULL
);

CREATE TABLE returns (
    return_id text PRIMARY KEY,
    order_id text NOT NULL,
    opened_at timestamptz,
    updated_at timestamptz,
    update_count integer NOT NULL,
    revision bigint NOT NULL
);
CREATE INDEX returns_by_order ON returns (order_id);

-- migrate:down
DROP TABLE returns;
DROP TABLE orders;
DROP TABLE parts;
