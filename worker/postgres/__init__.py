"""Connections, locks, migrations and the tables that no family owns."""
