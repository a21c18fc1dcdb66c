"""The alternatives. Each runs in its own process, configured by environment variables."""
