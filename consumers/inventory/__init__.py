"""Parts and whether they can be sold."""
