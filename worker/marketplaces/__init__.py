"""What is particular to each marketplace: its entry in the registry, and the client of its API."""
