"""The domain: one folder per event family, and what a family states about itself."""
