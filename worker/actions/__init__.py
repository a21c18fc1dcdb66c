"""What is asked of marketplaces: each request once for its key, with retries, with its outcome on record."""
