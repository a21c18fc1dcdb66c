"""Ovoko's API, as a client."""
