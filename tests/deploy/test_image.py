"""The image of deploy/Dockerfile: its content, and its behaviour in a container."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from packaging.requirements import Requirement

from deploy.local.packages import apt_is_here, debian_mirror
from deploy.local.ports import free_port_pair
from deploy.local.services import CHECKOUT, PACKAGES
from tests.deploy.image import Image, Layer, base_name, built, wheels
from tests.deploy.tools import DEPLOY, documents
from tests.support.console import browser, sign_in, users
from tests.support.stack import Stack, Worker, free_port, until
from tests.unit.test_service import BODY

pytestmark = pytest.mark.image

MOST_MEGABYTES = 70
"""Of what lies above the base image."""
INSTALLED = "opt/stockhook/lib"


@pytest.fixture(scope="module")
def mirror() -> str:
    """Where the stand-in for the base image comes from."""
    for program in ("unshare", "setpriv", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}, which this machine does not have")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip(
            "needs root with the right to mount: buildah builds the image in a file system of its own"
        )
    if not apt_is_here() or (mirror_url := debian_mirror(PACKAGES)) is None:
        pytest.skip("needs Debian's package sources, for buildah, debootstrap and a stand-in base image")
    return mirror_url


@pytest.fixture(scope="module")
def image(mirror: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    with built(folder, mirror, print) as made:
        yield made
    shutil.rmtree(folder)


def files_of(layer: Layer) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(layer.archive) as files:
        for member in files:
            opened = files.extractfile(member) if member.isfile() else None
            yield member, b"" if opened is None else opened.read()


def test_it_adds_little_to_the_base_image(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    total = sum(layer.size for layer in image.layers) / 1e6
    with capsys.disabled():
        print(f"\nThe image has {total:.1f} MB above the base (at most {MOST_MEGABYTES}):")
        for layer in image.layers:
            print(f"  {layer.size / 1e6:6.2f} MB  {layer.made_by[:90]}")

    assert 0 < total <= MOST_MEGABYTES


def test_it_holds_the_packages_of_the_lock_and_the_product_and_no_other(image: Image) -> None:
    """It has neither pip, nor build tools, nor dependencies of tests."""
    lines = re.findall(r"^(\S+==[^\\\n]+)", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE)
    locked = {
        (wanted.name, str(wanted.specifier).removeprefix("=="))
        for wanted in map(Requirement, lines)
        if wanted.marker is None or wanted.marker.evaluate()
    }
    installed = {
        tuple(path.name.removesuffix(".dist-info").rsplit("-", 1))
        for path in (image.root / INSTALLED).glob("python3.*/site-packages/*.dist-info")
    }

    assert len(locked) > 30
    assert {(name.replace("_", "-").lower(), version) for name, version in installed} == locked | {
        ("stockhook", "0.1.0")
    }


def test_its_process_can_change_nothing_but_the_spool_folder(image: Image) -> None:
    user = int(image.configuration["User"].split(":")[0])
    added = [member for layer in image.layers for member, _ in files_of(layer)]
    owned = {member.name for member in added if member.uid != 0 or member.gid != 0}
    open_to_others = {member.name for member in added if not member.issym() and member.mode & stat.S_IWOTH}
    spool = image.volume.stat()

    assert (user, owned, open_to_others) == (10001, {"var/lib/stockhook"}, set())
    assert (spool.st_uid, spool.st_gid, stat.S_IMODE(spool.st_mode)) == (10001, 10001, 0o700)


def test_nothing_of_the_machine_that_built_it_is_in_it(image: Image, mirror: str) -> None:
    """For example its package index, mirror, certificates, and the folder of packages."""
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    addresses = re.findall(r"https?://[^\s']+", f"{configured} {mirror}")
    hosts = {urlsplit(address).hostname or "" for address in addresses}
    # Packages name it in their metadata on any machine.
    secrets = {host.encode() for host in hosts if not host.endswith(("pypi.org", "debian.org"))}
    secrets |= {b"find-links", str(CHECKOUT).encode()}
    files = [file for layer in image.layers for file in files_of(layer)]
    leaks = {(secret, member.name) for secret in secrets for member, content in files if secret in content}
    configuration = repr((image.configuration, image.history)).encode()

    assert leaks == set()
    assert [secret for secret in secrets if secret in configuration] == []
    # buildah leaves empty files where it mounted something in the build.
    assert {
        member.name for member, content in files if content and not member.name.startswith("opt/")
    } == set()
    assert not any("pip" in name.lower() for name in image.environment)


def test_nothing_is_compiled_again_at_a_start(image: Image, tmp_path: Path) -> None:
    """The root is read-only: modules without bytecode would be compiled at each start."""
    started = subprocess.run(
        [
            *image.confined(volume(image, tmp_path)),
            "python",
            "-v",
            "-c",
            "import worker.amqp.connection, worker.postgres.pool, worker.config.settings",
        ],
        env=image.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    loaded = re.findall(r"^# code object from '?(/opt/stockhook/[^'\n]+)", started.stderr, re.MULTILINE)

    assert started.returncode == 0, started.stderr[-2000:]
    assert len(loaded) > 100
    assert [path for path in loaded if not path.endswith(".pyc")] == []


@dataclass(slots=True)
class Container(Worker):
    """A process of the image, the first of its own process namespace."""

    @property
    def first(self) -> int:
        """Its id outside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def signal(self, number: signal.Signals) -> None:
        """unshare, which waits for it, passes none on."""
        with suppress(FileNotFoundError, IndexError, ProcessLookupError):
            os.kill(self.first, number)

    def execute(self, *command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container, as `docker exec` does."""
        entered = ("--mount", "--pid", "--root", "--wd", "--setgid=10001", "--setuid=10001")
        return subprocess.run(
            ["nsenter", f"--target={self.first}", *entered, "--", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def volume(image: Image, tmp_path: Path) -> Path:
    """A new volume with the owner and mode of the image's folder, as an engine creates it."""
    folder = tmp_path / "volume"
    folder.mkdir()
    like = image.volume.stat()
    os.chown(folder, like.st_uid, like.st_gid)
    folder.chmod(stat.S_IMODE(like.st_mode))
    return folder


def environment(image: Image, stack: Stack, **overrides: str) -> dict[str, str]:
    """The image's, and the settings that a deployment gives."""
    given = {**stack.environment, **overrides}
    del given["STOCKHOOK_SPOOL_PATH"]
    return image.environment | given


def finished(
    image: Image, folder: Path, settings: dict[str, str], *command: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*image.confined(folder), *image.configuration["Entrypoint"], *command],
        env=settings,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_compose_and_kubernetes_let_it_write_where_the_test_does() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    ingest = compose["services"]["ingest"]
    (stateful,) = [
        one for one in documents(DEPLOY / "kubernetes/30-ingest.yaml") if one["kind"] == "StatefulSet"
    ]
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}

    assert [mount.split(":")[0] for mount in ingest["tmpfs"]] == ["/tmp"]
    assert [mount.split(":")[1] for mount in ingest["volumes"]] == ["/var/lib/stockhook"]
    assert writable == {"/tmp", "/var/lib/stockhook"}


async def test_it_migrates_and_declares_on_services_that_have_nothing(
    image: Image, stack: Stack, fresh_database: str, tmp_path: Path
) -> None:
    folder = volume(image, tmp_path)
    settings = environment(image, stack, STOCKHOOK_DATABASE_URL=fresh_database)
    await stack.delete_queue("stockhook.orders")

    migrated = finished(image, folder, settings, "migrate")
    declared = finished(image, folder, settings, "topology")
    checked = finished(image, folder, settings, "topology", "--check")

    assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    assert declared.returncode == 0, declared.stdout + declared.stderr
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_it_applies_a_webhook_on_a_read_only_root_and_stops_in_time(
    image: Image, stack: Stack, tmp_path: Path
) -> None:
    folder = volume(image, tmp_path)
    ops_port = free_port_pair()
    settings = environment(image, stack, STOCKHOOK_OPS_PORT=str(ops_port))
    log = tmp_path / "container.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*image.confined(folder), *image.configuration["Entrypoint"], *image.configuration["Cmd"]],
            env=settings,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    container = Container("run", process, log, ops_port)
    stack.workers.append(container)
    await stack.ready(container, seconds=60)

    async def is_applied() -> bool:
        return await stack.count("event_log") == 1

    lines = Path(f"/proc/{container.first}/status").read_text().splitlines()
    status = {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
    kind, *health = image.configuration["Healthcheck"]["Test"]
    healthy = container.execute(*health, environment=settings)
    answer = await stack.post_ovoko(BODY)
    await until(is_applied, "the event is applied", seconds=60)
    written = {
        place: container.execute("touch", f"{place}/probe", environment=settings).stderr
        for place in ("/", "/opt/stockhook/lib", "/etc", "/var/tmp", "/dev", "/tmp", "/var/lib/stockhook")
    }
    refused = {place for place, error in written.items() if "Read-only file system" in error}
    allowed = {place for place, error in written.items() if error == ""}
    spools = {path.name for path in folder.iterdir()}
    container.signal(signal.Signals[image.configuration["StopSignal"]])
    code = container.wait(grace())

    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
    assert (status["Groups"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("", "1", 0)
    assert (kind, healthy.returncode) == ("CMD", 0), healthy.stdout + healthy.stderr
    assert answer.status_code == 200
    assert refused == {"/", "/opt/stockhook/lib", "/etc", "/var/tmp", "/dev"}
    assert allowed == {"/tmp", "/var/lib/stockhook"}
    assert "spool.sqlite3" in spools
    assert code == 0, container.lines()[-3000:]


def grace() -> float:
    """The grace period of compose.yaml."""
    (compose,) = documents(DEPLOY / "compose.yaml")
    seconds: str = compose["x-stockhook"]["stop_grace_period"]
    return float(seconds.removesuffix("s"))


async def test_it_serves_the_console_only_if_passwords_are_safe(
    image: Image, stack: Stack, tmp_path: Path
) -> None:
    folder = volume(image, tmp_path)
    port = free_port()
    settings = environment(
        image,
        stack,
        STOCKHOOK_CONSOLE_PORT=str(port),
        STOCKHOOK_CONSOLE_USERS=users(anna="operator"),
    )
    unsafe = finished(image, folder, settings, "console")
    # As compose.yaml has it: the address of the network's bridge, which here is another one than ours.
    settings["STOCKHOOK_CONSOLE_TRUSTED_PROXIES"] = "127.0.0.2"
    log = tmp_path / "console.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*image.confined(folder), *image.configuration["Entrypoint"], "console"],
            env=settings,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    container = Container("console", process, log, port)
    stack.workers.append(container)
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        assert process.poll() is None, container.lines()[-3000:]
        try:
            async with browser(url) as client:
                return (await client.get("/livez")).status_code == 200
        except httpx.TransportError:
            return False

    await until(answers, "the console answers", seconds=60)
    async with browser(url) as client:
        signed_in = await sign_in(client)
        page = await client.get("/families/orders")
        assets = [await client.get(path) for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)]
    (compose,) = documents(DEPLOY / "compose.yaml")
    _, *health = compose["services"]["console"]["healthcheck"]["test"]
    healthy = container.execute(*health[:-1], str(port), environment=settings)
    container.signal(signal.Signals[image.configuration["StopSignal"]])
    code = container.wait(grace())

    assert unsafe.returncode == 78
    assert "passwords would be sent in clear" in unsafe.stderr
    assert (signed_in.status_code, page.status_code) == (303, 200)
    assert [asset.status_code for asset in assets] == [200] * len(assets) != []
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert code == 0, container.lines()[-3000:]


async def test_the_health_check_fails_where_nothing_runs(image: Image, stack: Stack, tmp_path: Path) -> None:
    settings = environment(image, stack, STOCKHOOK_OPS_PORT=str(free_port_pair()))
    _kind, command, *arguments = image.configuration["Healthcheck"]["Test"]

    result = finished(image, volume(image, tmp_path), settings, *arguments)

    assert [command] == image.configuration["Entrypoint"]
    assert result.returncode == 1, result.stdout + result.stderr


def test_the_systemd_guide_installs_the_product_from_the_locks_alone(tmp_path: Path) -> None:
    """It uses the build backend of the lock, so that it works without a package index."""
    if f"python:{sys.version_info.major}.{sys.version_info.minor}-" not in base_name():
        pytest.skip("needs the Python version of the image: the packages were downloaded for that one")
    guide = (DEPLOY / "README.md").read_text().partition("## With systemd")[2]
    commands = re.findall(
        r"^(?:python3|\S+/pip) .+$", guide.partition("```sh\n")[2].partition("```")[0], re.MULTILINE
    )
    checkout = tmp_path / "checkout"
    shutil.copytree(
        CHECKOUT, checkout, ignore=shutil.ignore_patterns(".*", "tests", "deploy", "docs", "__pycache__")
    )
    script = "\n".join(commands).replace("/opt/stockhook", str(tmp_path / "opt"))
    installed = subprocess.run(
        ["sh", "-euc", script.replace("python3 -m venv", f"{sys.executable} -m venv")],
        env={
            "PATH": os.environ["PATH"],
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(wheels(print)),
            "PIP_NO_COMPILE": "1",
            "PIP_NO_INDEX": "1",
        },
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    result = subprocess.run(
        [tmp_path / "opt/bin/stockhook", "--version"], capture_output=True, text=True, check=False
    )

    assert len(commands) == 4
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert result.stdout.strip() == "0.1.0", result.stderr
