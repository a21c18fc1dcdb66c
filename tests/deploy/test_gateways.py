"""deploy/gateways: each proxy accepts its file, whose times and sizes fit the ingest's defaults.

tests/e2e/test_gateways.py and tests/e2e/test_smuggling.py run the proxies with these files.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.authority import make_authority
from tests.support.gateways import FILES, PROXIES, gateway_command
from tests.support.stack import free_port
from worker.config.settings import Settings
from worker.console.access import LONGEST_FORM_BYTES

# Options that make a program check its file and end. Traefik has none.
CHECKS = {"nginx": ["-t"], "haproxy": ["-c"], "envoy": ["--mode", "validate"]}

MAIN_FILES = {
    "nginx": "nginx.conf",
    "haproxy": "haproxy.cfg",
    "envoy": "envoy.yaml",
    "traefik": "traefik-routes.yaml",
}
# Idle timeouts of connections to the ingests in seconds; in Envoy's file, that of the senders is first.
IDLE = {
    "nginx": r"keepalive_timeout (\d+)s;",
    "haproxy": r"timeout http-keep-alive (\d+)s",
    "envoy": r"clusters:[\s\S]* idle_timeout: (\d+)s",
    "traefik": r"idleConnTimeout: (\d+)s",
}
BODY_BYTES = {
    "nginx": r"client_max_body_size (\d+k);",
    "haproxy": r"content-length\) gt (\d+)",
    "envoy": r"max_request_bytes: (\d+)",
    "traefik": r"maxRequestBodyBytes: (\d+)",
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_proxy_accepts_its_file_without_a_warning(tmp_path: Path, name: str) -> None:
    authority = make_authority(tmp_path / "tls")
    command, environment = gateway_command(name, tmp_path, free_port(), [free_port()], authority)
    done = subprocess.run(
        [*command, *CHECKS[name]], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr

    assert done.returncode == 0, said
    # Valid for nginx 1.25.1 and newer, as the file states.
    said = re.sub(r".*\"listen ... http2\" directive is deprecated.*", "", said)
    assert re.search(r"warn|deprecat", said, re.IGNORECASE) is None, said


@pytest.mark.parametrize("name", PROXIES)
def test_connections_are_idle_for_a_shorter_time_at_the_proxy_than_at_the_ingest(name: str) -> None:
    assert number(name, IDLE) < Settings.model_fields["ingest_idle_timeout"].default


@pytest.mark.parametrize("name", PROXIES)
def test_the_proxy_lets_every_body_through_that_the_ingest_accepts(name: str) -> None:
    assert number(name, BODY_BYTES) > Settings.model_fields["body_limit"].default


def test_nginx_lets_every_form_of_the_console_through() -> None:
    match = re.search(r"client_max_body_size (\d+)m;", (FILES / "nginx-console.conf").read_text())

    assert match is not None
    assert int(match[1]) * 2**20 >= LONGEST_FORM_BYTES


def number(name: str, patterns: dict[str, str]) -> int:
    match = re.search(patterns[name], (FILES / MAIN_FILES[name]).read_text())
    assert match is not None, f"{MAIN_FILES[name]} has no {patterns[name]}"
    digits, is_kibibytes, _ = match[1].partition("k")
    return int(digits) * (1024 if is_kibibytes else 1)
