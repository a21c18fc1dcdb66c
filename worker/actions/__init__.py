"""What is asked of marketplaces: each request once for its key, by a ladder, with its outcome on record."""
