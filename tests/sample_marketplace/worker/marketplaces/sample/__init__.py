"""Sample: its entry in the registry."""
