"""Certificate authorities and dates of headers, for all HTTP clients."""

import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from worker.config.settings import BadSettings


def tls_context() -> ssl.SSLContext:
    """With the authorities of SSL_CERT_FILE or SSL_CERT_DIR, where one is set.

    Raises:
        BadSettings
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise BadSettings(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error.strerror}") from None


def http_date(text: str | None) -> datetime | None:
    """The date in a header; UTC where it names no zone (`-0000`), None where it cannot be read."""
    try:
        at = parsedate_to_datetime(text) if text is not None else None
    except (ValueError, OverflowError):
        return None
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
