"""The formats of data that others rely on: payloads, the envelope on the queue, the database."""
