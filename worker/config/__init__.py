"""Settings from the environment, checked when they are read."""
