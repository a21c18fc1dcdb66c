"""Requests to marketplaces: once per key, with retries and a recorded outcome."""
