"""The steps of a delivery: decode, apply in a transaction, acknowledge or retry."""
