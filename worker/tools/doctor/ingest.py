"""Checks of the ingest: which machines can reach it, and its certificate."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from worker.config.check import CheckResult, error, ok, warning
from worker.config.security import is_this_machine
from worker.config.settings import Settings
from worker.ingest.tls import BadCertificate, Files, Loaded, load

EXPIRES_SOON = timedelta(days=14)
OTHERS_MAY_READ = 0o004

RENEW = "renew it; the ingest loads the new file by itself"


def check_ingest(settings: Settings) -> Iterator[CheckResult]:
    yield _check_exposure(settings)
    files = Files.of(settings)
    if files is not None:
        yield from _check_certificate(files)


def _check_exposure(settings: Settings) -> CheckResult:
    if is_this_machine(settings.ingest_host):
        return ok("ingest", f"only this machine reaches it ({settings.ingest_host})")
    protections = {
        "TLS": settings.ingest_certificate_file is not None,
        "a gateway": settings.gateway is not None,
        "trusted proxies": bool(settings.trusted_proxies),
    }
    configured = [name for name, is_set in protections.items() if is_set]
    if configured:
        return ok(
            "ingest",
            f"other machines reach it ({settings.ingest_host}): {', '.join(configured)} configured",
        )
    return warning(
        "ingest",
        f"other machines reach it without TLS ({settings.ingest_host}), and no gateway or proxy is set",
        "set STOCKHOOK_TRUSTED_PROXIES to the proxy in front of it, STOCKHOOK_GATEWAY, or "
        "STOCKHOOK_INGEST_CERTIFICATE_FILE",
    )


def _check_certificate(files: Files) -> Iterator[CheckResult]:
    try:
        loaded = load(files)
    except BadCertificate as bad:
        yield error("ingest certificate", str(bad), "correct it: the ingest cannot start again without it")
        return
    yield check_validity(loaded, datetime.now(UTC))
    if files.key.stat().st_mode & OTHERS_MAY_READ:
        yield warning(
            "ingest certificate",
            f"STOCKHOOK_INGEST_KEY_FILE: every user of this machine may read {files.key}",
            f"chmod o= {files.key}",
        )


def check_validity(loaded: Loaded, now: datetime) -> CheckResult:
    """STOCKHOOK_INGEST_CERTIFICATE_FILE, by the clock of this machine."""
    until = f"{loaded.expires_at:%Y-%m-%d %H:%M} UTC"
    names = ", ".join(loaded.names) or "no name"
    if loaded.expires_at <= now:
        return error("ingest certificate", f"expired at {until}: senders refuse it", RENEW)
    if loaded.begins_at > now:
        begins = f"{loaded.begins_at:%Y-%m-%d %H:%M} UTC"
        remedy = "wait, use the previous certificate, or set the clock"
        return error("ingest certificate", f"is valid only from {begins}: senders refuse it", remedy)
    if loaded.expires_at - now < EXPIRES_SOON:
        return warning("ingest certificate", f"expires at {until}", RENEW)
    return ok("ingest certificate", f"for {names}, valid until {until}")
