"""Clients of the marketplaces' APIs."""
