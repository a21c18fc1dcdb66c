"""Reminders that the trade-in platform wants sent to a customer."""
