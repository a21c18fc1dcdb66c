"""RabbitMQ and Postgres in containers, for machines that have Docker but neither of these."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import LOOPBACK
from deploy.local.process import LOG_TAIL_LINES, StartFailed
from deploy.local.rabbitmq import ControlFailed

FILE = Path(__file__).with_name("compose.yaml")
PORT_NAMES = ("amqp", "postgres")
PROBE_SECONDS = 20
# The first start downloads two images.
START_SECONDS = 900


def docker_works() -> bool:
    """Whether an engine answers and has the compose plugin."""
    if shutil.which("docker") is None:
        return False
    commands = (["docker", "compose", "version"], ["docker", "info"])
    try:
        return all(
            subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False).returncode == 0
            for command in commands
        )
    except subprocess.TimeoutExpired:
        return False


def project_name(state: Path) -> str:
    """One project per state folder, so that a run and tests can run at the same time."""
    return f"stockhook-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True)
class ComposeProject:
    name: str
    ports: dict[str, int]
    rabbitmq_password: str
    postgres_password: str

    @property
    def amqp_url(self) -> str:
        return f"amqp://stockhook:{self.rabbitmq_password}@{LOOPBACK}:{self.ports['amqp']}/stockhook"

    @property
    def database_url(self) -> str:
        return (
            f"postgresql://stockhook:{self.postgres_password}@{LOOPBACK}:{self.ports['postgres']}/stockhook"
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {
            "STOCKHOOK_LOCAL_AMQP_PORT": str(self.ports["amqp"]),
            "STOCKHOOK_LOCAL_POSTGRES_PORT": str(self.ports["postgres"]),
            "STOCKHOOK_LOCAL_RABBITMQ_PASSWORD": self.rabbitmq_password,
            "STOCKHOOK_LOCAL_POSTGRES_PASSWORD": self.postgres_password,
        }
        return subprocess.run(
            ["docker", "compose", "--project-name", self.name, "--file", str(FILE), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def up(self, *services: str) -> None:
        """Returns when they are healthy; raises StartFailed."""
        done = self.run("up", "--detach", "--wait", *services)
        if done.returncode != 0:
            logs = self.run("logs", "--no-color", "--tail", str(LOG_TAIL_LINES), *services).stdout
            raise StartFailed(f"docker compose up failed: {done.stderr.strip()}\n{logs}")

    def down(self, *, durable: bool) -> None:
        self.run("down", "--timeout", "20", *([] if durable else ["--volumes"]))


@dataclass(frozen=True, slots=True)
class ComposeService:
    """RabbitMQ or Postgres, with the same methods as a private node."""

    project: ComposeProject
    service: str
    url: str

    def pids(self) -> list[int]:
        """None, because its processes belong to the engine."""
        return []

    def start(self) -> None:
        self.project.up(self.service)

    def stop(self) -> None:
        self.project.run("stop", self.service)

    def kill(self) -> None:
        self.project.run("kill", "--signal", "KILL", self.service)

    def pause(self) -> None:
        self.project.run("pause", self.service)

    def resume(self) -> None:
        self.project.run("unpause", self.service)

    def ctl(self, *arguments: str) -> str:
        done = self.project.run("exec", "--no-TTY", self.service, "rabbitmqctl", "--quiet", *arguments)
        if done.returncode != 0:
            raise ControlFailed(f"rabbitmqctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
