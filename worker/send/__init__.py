"""Playing events at an ingest."""
