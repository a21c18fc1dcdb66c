-- migrate:up
ALTER TABLE returns ADD COLUMN seen_at timestamptz, ADD COLUMN gone_at timestamptz;
COMMENT ON COLUMN returns.seen_at IS 'When the marketplace''s own list last corrected it: since then the order is the one that the list names';
COMMENT ON COLUMN returns.gone_at IS 'When the marketplace last knew nothing of it; what happened later shows that it is there';

-- migrate:down
ALTER TABLE returns DROP COLUMN gone_at, DROP COLUMN seen_at;
