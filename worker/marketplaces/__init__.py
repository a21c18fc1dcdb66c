"""The code that is specific to a marketplace: its entry in the registry, and the client of its API."""
