"""nginx, installed or unpacked from Debian's packages. A test is skipped if neither is available."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.packages import DownloadFailed, nginx
from deploy.local.programs import with_libraries
from deploy.local.services import DEV

# One process, no daemon; it writes only to its folder.
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


@contextmanager
def running_nginx(folder: Path, http: str) -> Iterator[None]:
    """Run nginx while the context is open; `http` is the content of that block in its configuration."""
    command, environment = nginx_command(folder, http)
    process = subprocess.Popen(command, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def nginx_command(folder: Path, http: str) -> tuple[list[str], dict[str, str]]:
    """The command, and the environment that it needs."""
    try:
        installed = nginx(DEV / "packages", print)
    except DownloadFailed as error:
        pytest.skip(f"needs nginx: {error}")
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, http=http))
    command = [installed.program, "-c", configuration, "-p", folder, "-e", folder / "error.log"]
    return [str(part) for part in command], {**os.environ, **with_libraries(installed.libraries)}
