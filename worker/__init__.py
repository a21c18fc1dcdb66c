"""The machinery: ingest, broker, batches, event log, command line."""
