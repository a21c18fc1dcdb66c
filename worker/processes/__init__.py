"""Processes that run until they are stopped: the ingest, the consumers, and their supervisor."""
