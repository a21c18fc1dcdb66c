"""Compares a marketplace's lists with the projections, and applies the differences."""
