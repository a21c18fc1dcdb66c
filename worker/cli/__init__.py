"""Commands that serve, and those that look after what they use: a module each, so that each loads its own."""
