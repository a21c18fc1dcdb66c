"""How an entity came to its state, event by event: `stockhook explain`."""
