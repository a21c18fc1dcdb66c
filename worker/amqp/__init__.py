"""The connection to RabbitMQ: topology, publishing with confirms, consuming, the management API."""
