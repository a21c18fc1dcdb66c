"""Returns: opened and updated."""
