"""Offers at Sample."""
