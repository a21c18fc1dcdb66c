"""A private Postgres: one folder, one loopback port, a password, no socket file."""

import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import LOOPBACK
from deploy.local.process import PROC, Command, Daemon, Identity, Spawner, StartFailed, as_identity
from deploy.local.programs import PostgresPrograms, with_libraries

USER = DATABASE = "stockhook"
PORT_NAMES = ("postgres",)
START_SECONDS = 60
STOP_SECONDS = 20
PROTOCOL_3 = 196608

SETTINGS = {
    "listen_addresses": LOOPBACK,
    # Socket paths have at most 107 bytes, which the checkout's path may exceed: the loopback port is enough.
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Its library is not downloaded, and it does not make short statements faster.
    "jit": "off",
}
# Synchronous commits survive kill -9 of the server, but not a crash of the machine.
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}

# Capabilities that let a service reach its files below folders closed to its user, the weaker one first, with
# their numbers in /proc/self/status. A container has often only the second.
CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    folder: Path
    log: Path
    programs: PostgresPrograms
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        return with_libraries(self.programs.libraries) | {"PATH": os.defpath, "LANG": "C.UTF-8"}


class PostgresNode:
    """The server. Its data survives kill and start."""

    def __init__(self, settings: PostgresSettings, *, spawner: Spawner, durable: bool) -> None:
        self._settings = settings
        self._durable = durable
        self._identity = other_than_root([settings.folder, settings.programs.folder])
        chosen = SETTINGS | ({} if durable else THROWAWAY_SETTINGS) | {"port": str(settings.port)}
        options = [part for key, value in chosen.items() for part in ("-c", f"{key}={value}")]
        self._server = Daemon(
            "Postgres",
            Command(
                (str(settings.programs.folder / "postgres"), "-D", str(settings.data), *options),
                settings.environment,
                stop_signal=signal.SIGINT if durable else signal.SIGQUIT,
                identity=self._identity,
            ),
            record=settings.folder.with_name("postgres.pid"),
            log=settings.log,
            spawner=spawner,
        )

    @property
    def settings(self) -> PostgresSettings:
        return self._settings

    @property
    def url(self) -> str:
        return self._settings.url

    def pids(self) -> list[int]:
        return [] if self._server.pid is None else [self._server.pid]

    def start(self) -> None:
        """Returns once it accepts connections; raises StartFailed. Does nothing if it already runs."""
        if not (self._settings.data / "PG_VERSION").exists():
            create_cluster(self._settings, self._identity)
        drop_stale_pid_file(self._settings.data / "postmaster.pid")
        self._server.start()
        self._server.wait_until_ready(lambda: asks_for_password(self._settings.port), START_SECONDS)

    def stop(self) -> None:
        if self._durable:
            self._server.stop(STOP_SECONDS)
        self._server.kill()

    def kill(self) -> None:
        """Kill -9, the backends too."""
        self._server.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._server.signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.signal_tree(signal.SIGCONT)


def create_cluster(settings: PostgresSettings, identity: Identity | None) -> None:
    """Runs initdb and creates the database. The folder gets its name only once it is complete."""
    folder = settings.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    partial = folder / "partial"
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(settings.password)
    if identity is not None:
        for path in (folder, password_file):
            os.chown(path, identity.uid, identity.gid)
    initdb = ("initdb", "-D", str(partial), "-U", USER, f"--pwfile={password_file}")
    run_tool(
        settings,
        identity,
        *initdb,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    )
    single = ("postgres", "--single", "-D", str(partial), "-c", "jit=off", "postgres")
    run_tool(settings, identity, *single, text=f"CREATE DATABASE {DATABASE}\n")
    password_file.unlink()
    partial.rename(settings.data)


def run_tool(
    settings: PostgresSettings, identity: Identity | None, program: str, *arguments: str, text: str = ""
) -> None:
    done = subprocess.run(
        [
            *([] if identity is None else as_identity(identity)),
            str(settings.programs.folder / program),
            *arguments,
        ],
        env=settings.environment,
        cwd="/",
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StartFailed(f"{program} failed:\n{done.stderr.strip() or done.stdout.strip()}")


def other_than_root(folders: list[Path]) -> Identity | None:
    """The user for Postgres, which refuses root. None if this program does not run as root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    capability = None if all(open_to_all(folder) for folder in folders) else usable_capability()
    return Identity(nobody.pw_uid, nobody.pw_gid, capability)


def open_to_all(folder: Path) -> bool:
    """Whether any user can enter the parent of this folder."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in folder.absolute().parents)


def usable_capability() -> str | None:
    status = (PROC / "self/status").read_text()
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    return next((name for name, bit in CAPABILITIES if permitted >> bit & 1), None)


def drop_stale_pid_file(path: Path) -> None:
    """After a crash of the machine its process id may be another program's: Postgres would not start."""
    try:
        pid = int(path.read_text().splitlines()[0])
        name = (PROC / str(pid) / "comm").read_text().strip()
    except (OSError, ValueError, IndexError):
        return
    if name != "postgres":
        path.unlink()


def asks_for_password(port: int) -> bool:
    """Whether a start-up message is answered with an authentication request; in recovery it gets an error."""
    fields = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    message = struct.pack("!II", 8 + len(fields), PROTOCOL_3) + fields
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(message)
            return connection.recv(1) == b"R"
    except OSError:
        return False
