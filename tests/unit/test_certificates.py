"""Doctor reports faults of a CA certificate that the strict verification of Python 3.13 refuses."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from pydantic import SecretStr

from tests.support.authority import CONSTRAINTS, KEY_USAGE, Authority, make_authority
from worker.config.check import Level
from worker.config.settings import Settings
from worker.tools.doctor.certificates import check_certificates, strict_faults

NOT_CRITICAL = (CONSTRAINTS[0], False)


def is_accepted(authority: Authority) -> bool:
    """Whether a client that verifies as Python 3.13 does completes a handshake with the CA's server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.certificate, authority.key)
    client = ssl.create_default_context(cafile=str(authority.ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return ours.version() is not None


@pytest.mark.parametrize(
    ("name", "extensions", "identifies_key"),
    [
        ("sound", (CONSTRAINTS, KEY_USAGE), True),
        ("without_key_usage", (CONSTRAINTS,), True),
        ("with_constraints_not_critical", (NOT_CRITICAL, KEY_USAGE), True),
        ("without_key_identifier", (CONSTRAINTS, KEY_USAGE), False),
    ],
)
def test_doctor_and_strict_verification_agree_on_a_ca(
    tmp_path: Path, name: str, extensions: tuple[tuple[x509.ExtensionType, bool], ...], identifies_key: bool
) -> None:
    authority = make_authority(tmp_path / name, extensions, identifies_key=identifies_key)
    ca = x509.load_pem_x509_certificate(authority.ca.read_bytes())

    assert is_accepted(authority) is (not list(strict_faults(ca)))
    assert is_accepted(authority) is (name == "sound")


def test_doctor_names_the_setting_of_a_ca_that_newer_versions_refuse(tmp_path: Path) -> None:
    old, sound = make_authority(tmp_path / "old", [CONSTRAINTS]), make_authority(tmp_path / "sound")
    unreadable = tmp_path / "unreadable.pem"
    unreadable.write_text("no certificate")

    settings = Settings(
        amqp_url=SecretStr("amqps://localhost/"), amqp_ca_file=old.ca, database_ca_file=sound.ca
    )
    refused = list(check_certificates(settings))
    broken = list(check_certificates(Settings(database_ca_file=unreadable)))

    assert [finding.level for finding in refused] == [Level.WARNING, Level.OK]
    assert refused[0].what == (
        "STOCKHOOK_AMQP_CA_FILE: the CA certificate has no key usage extension, "
        "which Python 3.13 and newer require"
    )
    assert [finding.level for finding in broken] == [Level.ERROR]
