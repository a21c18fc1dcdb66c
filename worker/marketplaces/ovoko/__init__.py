"""Ovoko: its entry in the registry, and the client of its API."""
