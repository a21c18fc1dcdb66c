"""Files and parts of pages that are generated from the code: `make docs` writes them, tests compare them."""
