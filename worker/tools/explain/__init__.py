"""`stockhook explain`: what made an entity what it is, event by event."""
