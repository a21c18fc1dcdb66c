"""Comparing a marketplace's own lists with the projections, and taking over what differs."""
