"""Proxies that the environment names (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY).

They are for the marketplaces' APIs alone. The management API is reached directly, webhooks through
STOCKHOOK_CHANGES_PROXY or directly.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from worker.config.settings import BadSettings
from worker.config.urls import BadUrl, checked, hosts_of


@dataclass(frozen=True, slots=True)
class Proxy:
    """`variable` named it; `url` may hold a password."""

    variable: str
    url: str

    @property
    def address(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a URL; None if the URL is reached directly.

    Raises:
        BadSettings: It cannot be used. The text names the variable, and quotes no value.
    """
    for name in (f"{urlsplit(url).scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            given = environment.get(variable)
            if not given:
                continue
            if _is_exempt(url, environment.get("no_proxy") or environment.get("NO_PROXY") or ""):
                return None
            try:
                return Proxy(
                    variable, checked(given if "://" in given else f"http://{given}", "http", "https")
                )
            except BadUrl as error:
                host = urlsplit(url).netloc
                raise BadSettings(f"{variable}: {error}; or exempt {host} from it in NO_PROXY") from None
    return None


def _is_exempt(url: str, listed: str) -> bool:
    """Whether a host, one of its domains or its network is listed. Unreadable entries exempt nothing."""
    (host,), port = hosts_of(url), urlsplit(url).port
    return any(_covers(entry.lower(), host.lower(), port) for entry in re.split(r"[\s,]+", listed) if entry)


def _covers(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, _, of_port = entry.partition(":")
    name = name.removeprefix("*").removeprefix(".")
    return f".{host}".endswith(f".{name}") and (not of_port or of_port == str(port))
