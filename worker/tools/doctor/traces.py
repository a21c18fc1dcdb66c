"""Checks of what exports traces."""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from worker.config.check import CheckResult, error, ok, warning
from worker.config.settings import Settings
from worker.config.urls import BadUrl, checked, hosts_and_ports
from worker.observability.tracing import is_switched_off

PACKAGES = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT)
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
HTTP_PORT, GRPC_PORT = "4318", "4317"


def check_traces(settings: Settings, environment: Mapping[str, str]) -> Iterator[CheckResult]:
    if settings.trust_traceparent and not settings.trusted_proxies and settings.gateway is None:
        yield warning(
            "traces",
            "STOCKHOOK_TRUST_TRACEPARENT is set, and there is no proxy or gateway to trust",
            "set STOCKHOOK_TRUSTED_PROXIES or STOCKHOOK_GATEWAY for the ingest, or unset it",
        )
    if not settings.tracing:
        return
    if is_switched_off(environment):
        yield warning(
            "traces",
            "STOCKHOOK_TRACING is set, and OTEL_SDK_DISABLED turns it off",
            "unset one of the two",
        )
        return
    missing = [package for package in PACKAGES if not _is_installed(package)]
    if missing:
        yield error(
            "traces",
            f"STOCKHOOK_TRACING is set, and {' and '.join(missing)} is not installed: no process starts",
            "install stockhook[otel]",
        )
        return
    yield from _check_protocol(environment)
    yield _check_endpoint(environment)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _check_protocol(environment: Mapping[str, str]) -> Iterator[CheckResult]:
    variable, protocol = _first(PROTOCOLS, environment)
    if protocol not in ("", HTTP):
        yield warning(
            "traces",
            f"{variable} is not {HTTP}, the only protocol that Stockhook exports with",
            f"unset it, and set {ENDPOINT} to the collector's port for HTTP ({HTTP_PORT})",
        )


def _check_endpoint(environment: Mapping[str, str]) -> CheckResult:
    variable, url = _first(ENDPOINTS, environment)
    if not url:
        return ok("traces", f"spans are exported to localhost:{HTTP_PORT}, as {ENDPOINT} is not set")
    try:
        ((host, port),) = hosts_and_ports(checked(url, "http", "https"))
    except BadUrl as fault:
        return error("traces", f"{variable} {fault}", f"write it like http://collector:{HTTP_PORT}")
    if port == GRPC_PORT:
        return warning(
            "traces",
            f"{variable} has the port {GRPC_PORT}, where collectors expect gRPC",
            f"use the collector's port for HTTP ({HTTP_PORT})",
        )
    return ok("traces", f"spans are exported to {host}{'' if port is None else f':{port}'}")


def _first(variables: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """The first variable that is set, and its value: that of traces comes before the common one."""
    values = ((name, environment.get(name, "").strip()) for name in variables)
    return next(((name, value) for name, value in values if value), ("", ""))
