"""The change feed: what the projections' changes are told by, at least once, in order per entity."""
