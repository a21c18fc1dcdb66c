"""Asking marketplaces again for what their events leave out."""
