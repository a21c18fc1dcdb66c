"""The tested Debian releases, and the tests of the short run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suite:
    """A release, and its versions when the tests were written for it."""

    name: str
    rabbitmq: str
    postgres: str
    python: str


SUITES = (
    Suite("bookworm", rabbitmq="3.10", postgres="15", python="3.11"),
    Suite("trixie", rabbitmq="4.0", postgres="17", python="3.13"),
    Suite("forky", rabbitmq="4.3", postgres="18", python="3.14"),
)
NEWEST = SUITES[-1]

PACKAGES = (
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "make",
    "nginx",
    "openssl",
    "pgbouncer",
    "postgresql",
    "procps",
    "python3",
    "python3-venv",
    "rabbitmq-server",
    "strace",
    "systemd",
)
"""The packages that the tests use. A system with another list is replaced."""

SUBSET = (
    "tests/integration/test_broker.py",
    "tests/integration/test_topology.py",
    "tests/integration/test_policies.py",
    "tests/integration/test_permissions.py",
    "tests/integration/test_encryption.py",
    "tests/integration/test_migrations.py",
    "tests/e2e/test_path.py",
    "tests/e2e/test_retry_schedule.py",
)
"""Broker, topology, grants, TLS, migrations, the path of an event and the retry queues."""
