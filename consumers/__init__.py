"""The domain: one folder per event family, and the contract they share with the machinery."""
