"""Reminders that the buyback platform wants sent to a customer."""
