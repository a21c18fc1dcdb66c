"""The marketplaces' APIs as a server on loopback, to test clients with faults on demand."""
