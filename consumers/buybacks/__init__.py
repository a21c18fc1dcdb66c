"""Trade-in orders with their items and shipments."""
