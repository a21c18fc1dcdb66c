"""The number of connections that a consumer process may open, in addition to those of its families."""

# Beside one per family: the two relays and what they listen to, measurements, the flusher, the dead
# letter archiver, and actions and the pauses of families, which take one for moments.
CONNECTIONS = 11

# Beside one per family and one per subscriber over HTTP: retry copies, changes, measurements, dead letters,
# actions, the audit.
BROKER_CONNECTIONS = 6
