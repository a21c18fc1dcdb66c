"""The change feed: publishes changes of the projections at least once, in order per entity."""
