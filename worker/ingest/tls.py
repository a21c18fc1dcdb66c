"""The certificate of a server: loaded, watched, and replaced while connections are open.

A new certificate gets its own context, which new connections use; open connections keep theirs. A certificate
that cannot be used changes nothing: the previous one stays in use.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509

from worker.config.settings import PREFIX, Settings
from worker.observability import metrics

log = structlog.get_logger(__name__)

# The files are checked this often. inotify does not see changes on a network file system, and Kubernetes
# replaces a folder above the file.
CHECK_SECONDS = 5.0


class BadCertificate(Exception):
    """Certificate, key or CA cannot be used. The text names the setting and the file, and what to do."""


@dataclass(frozen=True, slots=True)
class Files:
    """`server` is the name that the settings of these files begin with."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    server: str = "INGEST"

    @classmethod
    def of(cls, settings: Settings) -> "Files | None":
        """None if the ingest does not use TLS."""
        certificate, key = settings.ingest_certificate_file, settings.ingest_key_file
        if certificate is None or key is None:
            return None
        return cls(certificate, key, settings.ingest_client_ca_file)


@dataclass(frozen=True, slots=True)
class Loaded:
    """`expires_at` is that of the certificate itself, not of its chain; `names` are its subject names."""

    context: ssl.SSLContext
    begins_at: datetime
    expires_at: datetime
    names: tuple[str, ...]


def load(files: Files) -> Loaded:
    """Raises: BadCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A sender that offers HTTP/2 too must learn that the ingest does not have it.
    context.set_alpn_protocols(["http/1.1"])
    certificate_setting, key_setting = f"{files.server}_CERTIFICATE_FILE", f"{files.server}_KEY_FILE"
    certificate = _read_certificate(certificate_setting, files.certificate)
    _check_readable(key_setting, files.key)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _Encrypted:
        raise _bad(key_setting, files.key, "is encrypted: write the key without a password") from None
    except ssl.SSLError as error:
        what = (
            "does not belong to the certificate" if "MISMATCH" in str(error.reason) else "holds no usable key"
        )
        raise _bad(key_setting, files.key, f"{what}: name the key of {files.certificate}") from None
    except OSError as error:
        raise _bad(key_setting, files.key, f"cannot be read: {error.strerror}") from None
    if files.client_ca is not None:
        _check_readable("INGEST_CLIENT_CA_FILE", files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError:
            raise _bad(
                "INGEST_CLIENT_CA_FILE", files.client_ca, "holds no certificate: name a PEM file"
            ) from None
        except OSError as error:
            raise _bad(
                "INGEST_CLIENT_CA_FILE", files.client_ca, f"cannot be read: {error.strerror}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Loaded(
        context, certificate.not_valid_before_utc, certificate.not_valid_after_utc, _names(certificate)
    )


def _read_certificate(setting: str, path: Path) -> x509.Certificate:
    _check_readable(setting, path)
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise _bad(setting, path, "holds no certificate: name a PEM file") from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(str(name.value) for name in names)


def _check_readable(setting: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise _bad(setting, path, f"cannot be read: {error.strerror}") from None


def _bad(setting: str, path: Path, fault: str) -> BadCertificate:
    return BadCertificate(f"{PREFIX}{setting}: {path} {fault}")


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    """Without it, OpenSSL prompts for a password on the terminal."""
    raise _Encrypted


@dataclass(slots=True)
class Certificates:
    """The certificate of new connections, which is loaded again when its files change."""

    files: Files
    check_seconds: float = CHECK_SECONDS
    trouble: str | None = None
    """Why the present files are not in use."""
    _loaded: Loaded = field(init=False)
    _seen: object = field(init=False)
    _is_requested: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Raises: BadCertificate."""
        # Before they are read: the next check notices a change in between.
        self._seen = self._fingerprints()
        self._loaded = load(self.files)
        self._note_loaded()

    @property
    def context(self) -> ssl.SSLContext:
        return self._loaded.context

    def describe(self) -> dict[str, str]:
        """For `/readyz`."""
        return {"expires_at": self._loaded.expires_at.isoformat(), "reload": self.trouble or "ok"}

    def request_reload(self) -> None:
        """Load the files again, whether they have changed or not."""
        self._is_requested.set()

    async def watch(self) -> None:
        """Load the files when they have changed, or on request; while they cannot be used, try again."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_requested.wait(), self.check_seconds)
            is_requested = self._is_requested.is_set()
            self._is_requested.clear()
            # In a thread: the disk may be slow.
            await asyncio.to_thread(self._load_changed, is_requested=is_requested)

    def _load_changed(self, *, is_requested: bool) -> None:
        seen = self._fingerprints()
        if not is_requested and self.trouble is None and seen == self._seen:
            return
        self._seen = seen
        try:
            self._loaded = load(self.files)
        except BadCertificate as error:
            metrics.CERTIFICATE_LOADS.labels("failed").inc()
            if str(error) != self.trouble:
                log.error(
                    "certificate.refused", reason=str(error), used_until=self._loaded.expires_at.isoformat()
                )
            self.trouble = str(error)
        else:
            self.trouble = None
            self._note_loaded()

    def _note_loaded(self) -> None:
        loaded = self._loaded
        metrics.CERTIFICATE_LOADS.labels("ok").inc()
        metrics.CERTIFICATE_EXPIRES_AT.set(loaded.expires_at.timestamp())
        say: Callable[..., object] = log.info if datetime.now(UTC) < loaded.expires_at else log.error
        say("certificate.loaded", names=loaded.names, expires_at=loaded.expires_at.isoformat())

    def _fingerprints(self) -> list[tuple[int, ...] | None]:
        files = (self.files.certificate, self.files.key, self.files.client_ca)
        return [_fingerprint(path) for path in files if path is not None]


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    """Differs after the file has changed, or a link to it was moved; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
