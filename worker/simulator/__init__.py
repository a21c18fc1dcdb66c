"""Simulated APIs of the marketplaces on loopback, with faults on demand, for tests of clients."""
