"""What is generated from the code, files and parts of pages: `make docs` writes it, tests compare it."""
