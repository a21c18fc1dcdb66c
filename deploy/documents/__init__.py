"""What of the reference pages is made from the code: `make docs` writes it, tests compare it."""
