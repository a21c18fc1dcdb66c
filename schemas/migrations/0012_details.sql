-- migrate:up
-- Ovoko's events carry an id and little else; these columns hold what its API tells when it is asked. No
-- event writes them, and a rebuild from the log leaves them as they are.
ALTER TABLE parts
    ADD COLUMN details_at timestamptz,
    ADD COLUMN name text,
    ADD COLUMN price numeric,
    ADD COLUMN currency text,
    ADD COLUMN manufacturer_code text,
    ADD COLUMN visible_code text,
    ADD COLUMN other_code text;
COMMENT ON COLUMN parts.details_at IS 'When Ovoko was asked for what stands in the columns from name on; null: never answered';

ALTER TABLE returns
    ADD COLUMN details_at timestamptz,
    ADD COLUMN ovoko_status text,
    ADD COLUMN created_at timestamptz,
    ADD COLUMN total_returnable_amount numeric,
    ADD COLUMN currency text;
COMMENT ON COLUMN returns.details_at IS 'When Ovoko was asked for what stands in the columns from ovoko_status on, and in return_items; null: never answered';
COMMENT ON COLUMN returns.created_at IS 'As Ovoko''s API tells it; opened_at is what its event said';

-- Without a foreign key: a rebuild takes rows of `returns` out and puts them in again.
CREATE TABLE return_items (
    return_id text NOT NULL,
    position integer NOT NULL,
    part_id text,
    name text,
    return_reason text,
    price numeric,
    returnable_amount numeric,
    currency text,
    PRIMARY KEY (return_id, position)
);
CREATE INDEX return_items_by_part ON return_items (part_id);
COMMENT ON TABLE return_items IS 'What comes back with a return, as of returns.details_at';

-- migrate:down
DROP TABLE return_items;
ALTER TABLE returns
    DROP COLUMN details_at,
    DROP COLUMN ovoko_status,
    DROP COLUMN created_at,
    DROP COLUMN total_returnable_amount,
    DROP COLUMN currency;
ALTER TABLE parts
    DROP COLUMN details_at,
    DROP COLUMN name,
    DROP COLUMN price,
    DROP COLUMN currency,
    DROP COLUMN manufacturer_code,
    DROP COLUMN visible_code,
    DROP COLUMN other_code;
