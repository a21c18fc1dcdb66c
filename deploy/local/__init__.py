"""Private RabbitMQ and Postgres for `make run` and `make test`."""
