"""Events that the broker could not accept, on disk until it can."""
