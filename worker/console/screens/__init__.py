"""One module per screen: what it shows, from the poller, the database and the tools."""
