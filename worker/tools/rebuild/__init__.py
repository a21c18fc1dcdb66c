"""Rebuilds a family's rows from the event log, beside the live ones, and compares them."""
