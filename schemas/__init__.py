"""Every shape agreed with somebody else: payloads, the envelope on the queue, the database."""
