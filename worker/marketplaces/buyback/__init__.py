"""Luxclusif Buyback: its entry in the registry, and the client of its API for sellers."""
