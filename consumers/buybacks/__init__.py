"""Buyback orders with their items and shipments."""
