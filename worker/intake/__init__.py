"""From the bytes of a webhook to a message for the broker. Pure: no I/O."""
