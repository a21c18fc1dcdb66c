"""Comparing a marketplace's own lists with the projections."""
