"""Logs, metrics, the ops server, signals and backoff: what every process needs."""
