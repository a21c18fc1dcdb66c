"""Checks that need only the settings."""

import os
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from worker.config.check import (
    CheckResult,
    error,
    ok,
    warning,
)
from worker.config.proxies import proxy_for
from worker.config.security import other_machines, weak_gateway_keys, weak_secrets
from worker.config.settings import BadSettings, Settings
from worker.config.urls import split
from worker.marketplaces.registry import MARKETPLACES, api_urls

# Of the gateways, EventBridge waits the shortest time for an answer: 5 s.
LONGEST_PUBLISH_SECONDS = 4.0

MAKE_ONE = "make one with `openssl rand -hex 32`, and rotate"


def check_configuration(settings: Settings) -> Iterator[CheckResult]:
    yield from _check_proxies(settings)
    yield from _check_secrets(settings)
    yield from _check_gateway(settings)
    yield from check_exposure(settings)
    for marketplace in MARKETPLACES.values():
        yield from marketplace.check_settings(settings)
    if settings.batch_size > settings.prefetch:
        yield warning(
            "batches",
            f"a batch of {settings.batch_size} never fills with a prefetch of {settings.prefetch}",
            "raise STOCKHOOK_PREFETCH to twice STOCKHOOK_BATCH_SIZE",
        )


def _check_proxies(settings: Settings) -> Iterator[CheckResult]:
    for url in api_urls(settings):
        host = urlsplit(url).netloc
        try:
            proxy = proxy_for(url, os.environ)
        except BadSettings as fault:
            yield error("proxy", f"{host} cannot be reached: {fault}", "correct the variable, or unset it")
        else:
            if proxy is not None:
                yield ok("proxy", f"{host} is reached through {proxy.address} ({proxy.variable})")


def _check_secrets(settings: Settings) -> Iterator[CheckResult]:
    for marketplace in MARKETPLACES.values():
        reason = marketplace.disabled_reason(settings)
        if reason is not None:
            what = f"{marketplace.path} is disabled: {reason}"
            yield warning("secrets", what, "set it, if you expect events")
        name, secrets = marketplace.secrets_variable, marketplace.secrets(settings)
        faults = list(weak_secrets(secrets))
        for fault in faults:
            yield error("secrets", f"{name}: {fault}", MAKE_ONE)
        if secrets and not faults:
            yield ok("secrets", f"{name}: {len(secrets)} active")
    if settings.sealing_keys:
        yield ok("sealing keys", f"{len(settings.sealing_keys)} valid; the first one encrypts")


def _check_gateway(settings: Settings) -> Iterator[CheckResult]:
    if settings.gateway is None:
        if settings.gateway_require != "both":
            yield error(
                "gateway",
                f"STOCKHOOK_GATEWAY_REQUIRE is {settings.gateway_require}, and no gateway is named",
                "set STOCKHOOK_GATEWAY, or unset STOCKHOOK_GATEWAY_REQUIRE",
            )
        if settings.gateway_secrets:
            yield warning(
                "gateway",
                "STOCKHOOK_GATEWAY_SECRETS is set, and no signature is verified",
                "set STOCKHOOK_GATEWAY for the ingest",
            )
        return
    faults = list(weak_gateway_keys(settings.gateway_keys))
    for fault in faults:
        yield error("gateway", f"STOCKHOOK_GATEWAY_SECRETS: {fault}", MAKE_ONE)
    locked_out = _without_key(settings)
    if locked_out:
        yield error(
            "gateway",
            f"STOCKHOOK_GATEWAY_SECRETS has no secret for {', '.join(locked_out)}: every webhook is refused",
            "add one, or name the marketplaces behind the gateway in STOCKHOOK_GATEWAY_MARKETPLACES",
        )
    if settings.publish_timeout > LONGEST_PUBLISH_SECONDS:
        yield warning(
            "gateway",
            f"while the broker is unavailable, an answer takes {settings.publish_timeout:g} s, and some "
            "gateways (EventBridge) give up after 5 s",
            f"set STOCKHOOK_PUBLISH_TIMEOUT to {LONGEST_PUBLISH_SECONDS:g} or less",
        )
    if settings.gateway_require == "optional":
        yield warning(
            "gateway",
            "a webhook without the gateway's signature is accepted by the marketplace's own secret",
            "once stockhook_gateway_unsigned_total counts no absent ones, unset STOCKHOOK_GATEWAY_REQUIRE, "
            "or set it to gateway if the gateway drops the marketplace's secret",
        )
    elif not faults and not locked_out:
        active = f"{len(settings.gateway_keys)} active secrets"
        yield ok("gateway", f"the signature of {settings.gateway} is required: {active}")


def _without_key(settings: Settings) -> list[str]:
    """The marketplaces behind the gateway for which it has no key."""
    gateways = {name: settings.gateway_of(name) for name in MARKETPLACES}
    return [name for name, gateway in gateways.items() if gateway is not None and not gateway.keys]


def check_exposure(settings: Settings) -> Iterator[CheckResult]:
    if settings.environment == "development":
        yield warning(
            "environment",
            "development: weak secrets and plaintext are accepted",
            "unset STOCKHOOK_ENVIRONMENT where the events are real",
        )
    urls = {"broker": settings.amqp_url, "database": settings.database_url}
    for service, url in urls.items():
        text = url.get_secret_value()
        hosts = other_machines(text)
        if not hosts:
            yield ok("encryption", f"the {service} is on this machine")
        elif service == "broker":
            yield _encryption(service, "verified" if split(text).scheme == "amqps" else "none")
        else:
            mode = parse_qs(split(text).query).get("sslmode", ["prefer"])[-1]
            verified = "verified" if mode == "verify-full" else "unverified"
            yield _encryption(
                service, verified if mode in ("require", "verify-ca", "verify-full") else "none"
            )


def _encryption(service: str, quality: str) -> CheckResult:
    match quality:
        case "verified":
            return ok("encryption", f"the {service} is reached by TLS, certificate and host name verified")
        case "unverified":
            return warning(
                "encryption",
                f"the {service} is reached by TLS, but not verified: it may be another server",
                "set STOCKHOOK_DATABASE_CA_FILE, or sslmode=verify-full",
            )
        case _:
            return warning(
                "encryption",
                f"the {service} is on another machine and reached in clear",
                "use TLS, unless the network is private",
            )
