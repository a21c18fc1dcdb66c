"""The commands: one module each, so that a command loads only what it needs."""
