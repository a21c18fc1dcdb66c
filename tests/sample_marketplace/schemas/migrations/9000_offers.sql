-- migrate:up
CREATE TABLE offers (
    offer_id text PRIMARY KEY,
    is_for_sale boolean NOT NULL,
    price numeric,
    occurred_at timestamptz NOT NULL,
    revision bigint NOT NULL
);
COMMENT ON TABLE offers IS 'Offers at Sample, as of their newest event';

-- migrate:down
DROP TABLE offers;
