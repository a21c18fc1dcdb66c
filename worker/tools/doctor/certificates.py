"""Checks of the CA files: faults that Python 3.13 and newer refuse and older versions accept."""

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from worker.config.check import (
    CheckResult,
    error,
    ok,
    warning,
)
from worker.config.settings import Settings

REISSUE = "issue the CA certificate again with what is missing, or stay below Python 3.13"


def check_certificates(settings: Settings) -> Iterator[CheckResult]:
    files = {
        "STOCKHOOK_AMQP_CA_FILE": settings.amqp_ca_file,
        "STOCKHOOK_DATABASE_CA_FILE": settings.database_ca_file,
    }
    for name, path in files.items():
        if path is not None:
            yield from _check_file(name, path)


def _check_file(name: str, path: Path) -> Iterator[CheckResult]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        yield error("certificates", f"{name}: no certificate can be read from it", "name a PEM file")
        return
    faults = sorted({fault for certificate in certificates for fault in strict_faults(certificate)})
    for fault in faults:
        yield warning(
            "certificates",
            f"{name}: the CA certificate {fault}, which Python 3.13 and newer require",
            REISSUE,
        )
    if not faults:
        yield ok("certificates", f"{name}: passes the strict checks of Python 3.13 and newer")


def strict_faults(ca: x509.Certificate) -> Iterator[str]:
    """What a CA certificate lacks for VERIFY_X509_STRICT, the default since Python 3.13 (RFC 5280, 4.2.1)."""
    try:
        usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        yield "has no key usage extension"
    else:
        if not usage.value.key_cert_sign:
            yield "has a key usage without certificate signing"
    try:
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        yield "has no basic constraints extension"
    else:
        if not constraints.critical:
            yield "has a basic constraints extension that is not critical"
    try:
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        yield "has no subject key identifier"
