"""A comparison of common HTTP servers, with the ingest's request handler, to the ingest's own server."""
