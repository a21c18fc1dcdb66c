"""A small marketplace with one family, which a test adds to a copy of the checkout."""
