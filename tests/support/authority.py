"""Certificate authorities for tests: each signs one certificate, for a server or a client on 127.0.0.1."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DNS_NAME = "stockhook.internal"
"""For programs that do not compare addresses, such as nginx."""

Extension = tuple[x509.ExtensionType, bool]

CONSTRAINTS: Extension = (x509.BasicConstraints(ca=True, path_length=None), True)
KEY_USAGE: Extension = (
    x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    ),
    True,
)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA, with the certificate that it signed for 127.0.0.1 and DNS_NAME."""

    ca: Path
    certificate: Path
    key: Path


def make_authority(
    folder: Path,
    extensions: Sequence[Extension] = (CONSTRAINTS, KEY_USAGE),
    *,
    identifies_key: bool = True,
) -> Authority:
    """Create a CA with these extensions, critical or not, with or without a subject key identifier."""
    folder.mkdir()
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ca {folder.name}")])
    unsigned = _begin(issuer, issuer, ca_key)
    if identifies_key:
        identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        unsigned = unsigned.add_extension(identifier, critical=False)
    for extension, is_critical in extensions:
        unsigned = unsigned.add_extension(extension, critical=is_critical)
    ca = unsigned.sign(ca_key, hashes.SHA256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName(DNS_NAME)])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _begin(subject, issuer, key)
        .add_extension(names, critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    made = Authority(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    made.key.chmod(0o600)
    return made


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
    )
