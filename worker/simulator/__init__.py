"""The marketplaces' APIs as a server on loopback, to try clients against, with faults on demand."""
