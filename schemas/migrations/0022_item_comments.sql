-- migrate:up
COMMENT ON COLUMN buyback_items.model IS 'The model of the item';
COMMENT ON COLUMN buyback_items.brand IS 'The brand of the item';
COMMENT ON COLUMN buyback_items.category IS 'The category of the item';

-- migrate:down
COMMENT ON COLUMN buyback_items.model IS 'The model of the device';
COMMENT ON COLUMN buyback_items.brand IS 'The brand of the device';
COMMENT ON COLUMN buyback_items.category IS 'The category of the device';
