"""The webhook endpoint: authenticate, route, publish, answer."""
