"""What usual HTTP servers do with the ingest's request handler, beside the ingest's own server."""
