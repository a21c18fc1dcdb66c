"""A private RabbitMQ node: one folder, loopback ports only, one user and no guest."""

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.ports import LOOPBACK
from deploy.local.process import Command, Daemon, Spawner
from deploy.local.programs import RabbitPrograms, with_libraries

USER = VHOST = "stockhook"
# With an address instead of a host name, name resolution of this machine does not matter.
NODE_NAME = f"stockhook@{LOOPBACK}"
PORT_NAMES = ("amqp", "distribution", "epmd", "management")
START_SECONDS = 90
STOP_SECONDS = 20
CONTROL_SECONDS = 60

CONFIGURATION = """\
listeners.tcp.1 = {address}:{port}
management.tcp.ip = {address}
management.tcp.port = {management_port}
load_definitions = {definitions}
disk_free_limit.absolute = 200MB
vm_memory_high_watermark.absolute = 1GB
"""


class ControlFailed(Exception):
    """rabbitmqctl ended with an error; the message is its output."""


@dataclass(frozen=True, slots=True)
class RabbitSettings:
    folder: Path
    log: Path
    programs: RabbitPrograms
    ports: dict[str, int]
    password: str
    further_lines: str = ""
    """Lines of rabbitmq.conf; they replace the default lines for the same settings."""
    further_definitions: Mapping[str, object] = field(default_factory=dict)
    node_name: str = NODE_NAME
    """Its host part is the address of Erlang's distribution; AMQP and management stay on 127.0.0.1."""
    cookie_folder: Path | None = None
    """The folder of the Erlang cookie, which nodes of a cluster share; None means the node's own folder."""

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self.password}@{LOOPBACK}:{self.ports['amqp']}/{VHOST}"

    @property
    def management_url(self) -> str:
        return f"http://{USER}:{self.password}@{LOOPBACK}:{self.ports['management']}"

    @property
    def address(self) -> str:
        return self.node_name.rpartition("@")[2]


def epmd_daemon(settings: RabbitSettings, *addresses: str, spawner: Spawner) -> Daemon:
    """Started here, so that it ends with this program: an epmd that a node starts outlives the node.

    It always listens on the loopback address, and also on `addresses`.
    """
    folder = settings.folder
    command = (
        str(settings.programs.erlang / "epmd"),
        "-address",
        ",".join(addresses or [LOOPBACK]),
        "-port",
        str(settings.ports["epmd"]),
    )
    return Daemon(
        "epmd",
        Command(command, node_environment(settings)),
        record=folder / "epmd.pid",
        log=folder / "epmd.log",
        spawner=spawner,
    )


class RabbitNode:
    """The node and its epmd. Its data survives kill and start.

    The owner of an epmd that is passed, and shared with other nodes, stops it.
    """

    def __init__(
        self, settings: RabbitSettings, *, spawner: Spawner, durable: bool, epmd: Daemon | None = None
    ) -> None:
        self._settings = settings
        self._durable = durable
        self._epmd = epmd_daemon(settings, spawner=spawner) if epmd is None else epmd
        self._owns_epmd = epmd is None
        self._node = Daemon(
            "RabbitMQ",
            Command((str(settings.programs.rabbitmq / "rabbitmq-server"),), node_environment(settings)),
            record=settings.folder / "node.pid",
            log=settings.log,
            spawner=spawner,
        )

    @property
    def settings(self) -> RabbitSettings:
        return self._settings

    @property
    def url(self) -> str:
        return self._settings.url

    @property
    def management_url(self) -> str:
        return self._settings.management_url

    def pids(self) -> list[int]:
        return [pid for pid in (self._node.pid, self._epmd.pid) if pid is not None]

    def spawn(self) -> None:
        """Starts it, and does not wait."""
        write_configuration(self._settings)
        self._epmd.start()
        self._epmd.wait_until_ready(lambda: accepts(self._settings.ports["epmd"]), START_SECONDS)
        self._node.start()

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        self._node.wait_until_ready(lambda: speaks_amqp(self._settings.ports["amqp"]), seconds)

    def start(self) -> None:
        """Returns once it speaks AMQP; raises StartFailed. Does nothing if it already runs."""
        self.spawn()
        self.wait_until_ready()

    def stop(self) -> None:
        if self._durable:
            self._node.stop(STOP_SECONDS)
        self._node.kill()
        if self._owns_epmd:
            self._epmd.kill()

    def kill(self) -> None:
        """Kill -9."""
        self._node.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._node.signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        self._node.signal_tree(signal.SIGCONT)

    def ctl(self, *arguments: str, tool: str = "rabbitmqctl") -> str:
        """The output of rabbitmqctl or another tool of RabbitMQ; raises ControlFailed."""
        done = subprocess.run(
            [str(self._settings.programs.rabbitmq / tool), "--quiet", *arguments],
            env=node_environment(self._settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CONTROL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise ControlFailed(f"{tool} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def node_environment(settings: RabbitSettings) -> dict[str, str]:
    folder, programs = settings.folder, settings.programs
    distribution = distribution_options(settings.address)
    return with_libraries(programs.libraries) | {
        "HOME": str(settings.cookie_folder or folder),  # the Erlang cookie goes there
        "PATH": f"{programs.erlang}:{programs.rabbitmq}:{os.defpath}",
        "LANG": "C.UTF-8",
        "RABBITMQ_NODENAME": settings.node_name,
        "RABBITMQ_USE_LONGNAME": "true",
        "RABBITMQ_NODE_PORT": str(settings.ports["amqp"]),
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_DIST_PORT": str(settings.ports["distribution"]),
        "ERL_EPMD_PORT": str(settings.ports["epmd"]),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP_SECONDS": "0",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 +sbwt none {distribution}",
        "RABBITMQ_CTL_ERL_ARGS": distribution,
        # Makes the start script exec the Erlang machine instead of waiting for it.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def distribution_options(address: str) -> str:
    """Listens on this address and connects from it, so that a packet filter can identify the node."""
    numbers = "{" + address.replace(".", ",") + "}"
    return f"-kernel inet_dist_use_interface {numbers} -kernel inet_dist_connect_options [{{ip,{numbers}}}]"


def write_configuration(settings: RabbitSettings) -> None:
    folder = settings.folder
    for part in ("mnesia", "log"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    definitions = folder / "definitions.json"
    definitions.touch(mode=0o600)
    definitions.write_text(json.dumps({**settings.further_definitions, **definitions_for(settings.password)}))
    (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    (folder / "rabbitmq.conf").write_text(
        without_overridden(
            CONFIGURATION.format(
                address=LOOPBACK,
                port=settings.ports["amqp"],
                management_port=settings.ports["management"],
                definitions=definitions,
            ),
            settings.further_lines,
        )
        + settings.further_lines
    )


def without_overridden(configuration: str, further_lines: str) -> str:
    """Removes settings that the further lines replace: RabbitMQ 4 prefers an absolute to a relative limit."""
    further = {setting_of(line) for line in further_lines.splitlines()}
    return "".join(
        line for line in configuration.splitlines(keepends=True) if setting_of(line) not in further
    )


def setting_of(line: str) -> str:
    return re.sub(r"\.(absolute|relative)$", "", line.partition("=")[0].strip())


def definitions_for(password: str) -> dict[str, object]:
    return {
        "users": [{"name": USER, "password_hash": password_hash(password), "tags": ["administrator"]}],
        "vhosts": [{"name": VHOST}],
        "permissions": [{"user": USER, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}],
    }


def password_hash(password: str) -> str:
    """RabbitMQ's rabbit_password_hashing_sha256: base64 of a salt of four bytes and the digest."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def speaks_amqp(port: int) -> bool:
    """Whether a protocol header is answered with a method frame (Connection.Start)."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
