"""Marketplace orders: created, cancelled."""
