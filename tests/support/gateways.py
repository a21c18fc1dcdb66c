"""The proxies of deploy/gateways, with the shipped files.

Only addresses, ports, paths and the replacements of a test differ. nginx and HAProxy are installed, or
unpacked from Debian's packages; `make check-deploy` installs Envoy and Traefik. A test without its
proxy is skipped.
"""

import asyncio
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.packages import DownloadFailed, haproxy
from deploy.local.programs import with_libraries
from deploy.local.services import CHECKOUT, DEV
from tests.support.authority import Authority, make_authority
from tests.support.nginx import nginx_command
from tests.support.stack import free_port, until

FILES = CHECKOUT / "deploy/gateways"
TOOLS = DEV / "venv-deploy/bin"

PROXIES = ("nginx", "haproxy", "envoy", "traefik")

_TLS = "/etc/stockhook/tls"
_INGESTS = ("10.0.0.5", "10.0.0.6")

Command = tuple[list[str], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A proxy that listens with TLS on `port` of 127.0.0.1."""

    port: int
    authority: Authority
    log: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def tls(self, *protocols: str) -> ssl.SSLContext:
        """The context of a client that offers these protocols."""
        context = ssl.create_default_context(cafile=self.authority.ca)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def _shipped(name: str, replaced: Mapping[str, str], changes: Mapping[str, str]) -> str:
    """The text of a shipped file after replacements; each must match."""
    text = (FILES / name).read_text()
    for change in changes:
        assert change in text, f"deploy/gateways/{name} has no {change!r}"
    for change, wanted in {**replaced, **changes}.items():
        text = text.replace(change, wanted)
    return text


@asynccontextmanager
async def running_gateway(
    name: str,
    folder: Path,
    ingests: Sequence[int],
    changes: Mapping[str, str] | None = None,
    authority: Authority | None = None,
) -> AsyncIterator[Gateway]:
    """Run the proxy in front of two ports of 127.0.0.1, which may be the same.

    `changes` are replacements in its file (Traefik: in the one of its two files that has the text).
    """
    folder.mkdir(exist_ok=True)
    authority = authority or make_authority(folder / "tls")
    gateway = Gateway(free_port(), authority, folder / f"{name}.log")
    command, environment = gateway_command(name, folder, gateway.port, ingests, authority, changes)
    with gateway.log.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        await until(lambda: _listens(gateway, process), f"{name} listens")
        yield gateway
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gateway_command(
    name: str,
    folder: Path,
    port: int,
    ingests: Sequence[int],
    authority: Authority,
    changes: Mapping[str, str] | None = None,
) -> Command:
    """Write the files into the folder; return the command and its environment."""
    first, second = ingests[0], ingests[-1]
    combined = folder / "haproxy.pem"
    combined.write_bytes(authority.certificate.read_bytes() + authority.key.read_bytes())
    combined.chmod(0o600)
    replaced = {
        f"{_TLS}/certificate.pem": str(authority.certificate),
        f"{_TLS}/key.pem": str(authority.key),
        f"{_TLS}/haproxy.pem": str(combined),
        f"{_TLS}/client.pem": str(authority.certificate),
        f"{_TLS}/client-key.pem": str(authority.key),
        f"{_TLS}/client-haproxy.pem": str(combined),
        f"{_TLS}/ca.pem": str(authority.ca),
    }
    for address, ingest in zip(_INGESTS, (first, second), strict=True):
        replaced |= {
            f"{address}:8080": f"127.0.0.1:{ingest}",
            f"address: {address}, port_value: 8080": f"address: 127.0.0.1, port_value: {ingest}",
        }
    changes = changes or {}

    def write(file: str, changes: Mapping[str, str]) -> str:
        path = folder / file
        path.write_text(_shipped(file, replaced, changes))
        return str(path)

    match name:
        case "nginx":
            own = {"listen 443 ssl": f"listen 127.0.0.1:{port} ssl"}
            return nginx_command(folder, _shipped("nginx.conf", replaced, {**own, **changes}))
        case "haproxy":
            try:
                program, libraries = haproxy(DEV / "packages", print)
            except DownloadFailed as error:
                pytest.skip(f"needs HAProxy: {error}")
            path = write("haproxy.cfg", {"bind :443": f"bind 127.0.0.1:{port}", **changes})
            return [str(program), "-db", "-f", path], {**os.environ, **with_libraries(libraries)}
        case "envoy":
            own = {"address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {port}"}
            path = write("envoy.yaml", {**own, **changes})
            options = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
            return [_tool("envoy"), "-c", path, *options], os.environ
        case "traefik":
            of_routes = (FILES / "traefik-routes.yaml").read_text()
            routes = {old: new for old, new in changes.items() if old in of_routes}
            own = {
                '":443"': f'"127.0.0.1:{port}"',
                "providers:": "providers:\n  providersThrottleDuration: 50ms",
                "/etc/traefik/traefik-routes.yaml": write("traefik-routes.yaml", routes),
                **{old: new for old, new in changes.items() if old not in routes},
            }
            return [_tool("traefik"), f"--configFile={write('traefik.yaml', own)}"], os.environ
        case _:
            raise AssertionError(name)


def _tool(name: str) -> str:
    program = TOOLS / name
    if not program.exists():
        pytest.skip(f"needs {name}, which `make check-deploy` installs on Linux on x86-64")
    return str(program)


async def _listens(gateway: Gateway, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, f"the proxy ended:\n{gateway.log.read_text()[-2000:]}"
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=gateway.tls())
    except OSError:
        return False
    writer.transport.abort()
    return True
