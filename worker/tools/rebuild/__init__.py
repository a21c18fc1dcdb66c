"""A family's projection built anew from the event log, beside the live one, and compared with it."""
