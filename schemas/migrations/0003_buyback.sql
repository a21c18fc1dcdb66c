-- migrate:up
-- stamps says for each column which moment its value is from: columns are merged one by one,
-- because events carry different parts of an order and come in any order.
CREATE TABLE buyback_orders (
    order_id text PRIMARY KEY,
    status text,
    external_order_id text,
    external_reference text,
    submission_external_reference text,
    country text,
    payment_type text,
    currency text,
    total_amount numeric,
    customer_name text,
    customer_email text,
    customer_telephone text,
    customer_address json,
    payment_details_sealed text,
    account_number_ending text,
    occurred_at timestamptz,
    stamps json NOT NULL,
    revision bigint NOT NULL
);
COMMENT ON COLUMN buyback_orders.total_amount IS 'Sum of the items'' totals; null while they differ in currency';
COMMENT ON COLUMN buyback_orders.payment_details_sealed IS 'Fernet token of customerPaymentDetails';

CREATE TABLE buyback_items (
    order_id text NOT NULL,
    item_id text NOT NULL,
    status text,
    model text,
    brand text,
    category text,
    base_amount numeric,
    total_amount numeric,
    currency text,
    rejection_reasons text[],
    stamps json NOT NULL,
    PRIMARY KEY (order_id, item_id)
);

CREATE TABLE buyback_shipments (
    order_id text NOT NULL,
    tracking_code text NOT NULL,
    carrier text,
    waybill_url text,
    merged_documents_url text,
    pickup_starts_at timestamptz,
    pickup_ends_at timestamptz,
    is_reschedule boolean,
    stamps json NOT NULL,
    PRIMARY KEY (order_id, tracking_code)
);

CREATE TABLE reminders (
    order_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('schedule_pickup', 'pickup', 'drop_off')),
    occurred_at timestamptz NOT NULL,
    days smallint,
    PRIMARY KEY (order_id, kind, occurred_at)
);

CREATE TABLE communications (
    event_id uuid NOT NULL,
    kind text NOT NULL,
    order_id text NOT NULL,
    item_id text,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (event_id, kind)
);
COMMENT ON TABLE communications IS 'What the merchant owes a customer: one row per communication that an event calls for';

-- migrate:down
DROP TABLE communications;
DROP TABLE reminders;
DROP TABLE buyback_shipments;
DROP TABLE buyback_items;
DROP TABLE buyback_orders;
