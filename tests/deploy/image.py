"""Builds deploy/Dockerfile without an engine, and runs the image as a container would.

Needs root. buildah builds on a stand-in for the base image, made with debootstrap from this machine's Debian
mirror. It stays in .dev/image; the image itself is built each time. The packages come from a folder of wheels
that this machine's pip has filled, so that the build reads no configuration of this machine.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import packages
from deploy.local.services import CHECKOUT, DEV, PACKAGES, Announce

DOCKERFILE = CHECKOUT / "deploy/Dockerfile"
FOLDER = DEV / "image"
LOCKS = ("requirements.lock", "requirements-build.lock")
SECONDS = 900

# The packages of the base image, and those that the Dockerfile installs, so that nothing is downloaded.
BASE_PACKAGES = "python3,python3-venv,binutils"
# Useless in a container, and each container is a copy.
BASE_WITHOUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt")

# buildah starts itself again without its environment, so LD_LIBRARY_PATH would not do.
WITH_LIBRARIES = 'mount --bind "$1" /etc/ld.so.cache; shift; exec "$@"'

REGISTRIES = 'unqualified-search-registries = ["docker.io"]\n'
POLICY = json.dumps({"default": [{"type": "insecureAcceptAnything"}]})

# The root is read-only, but for the volume of the spool ($2) and /tmp, and there is no other process to see.
CONFINE = """
set -eu
root=$1 spool=$2 folder=$3 user=$4 group=$5
shift 5
mount --bind "$root" "$root"
mount --bind "$spool" "$root$folder"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,bind,ro "$root/dev"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs unshare --root="$root" --wd="$folder" --setgid="$group" --setuid="$user" -- "$@"
"""


class BuildFailed(Exception):
    """The message is the output of the program."""


def run(*command: str | Path, **environment: str) -> str:
    """Run a program with only PATH of the environment, and return its output."""
    done = subprocess.run(
        [str(word) for word in command],
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **environment},
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise BuildFailed(
            f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


def base_name() -> str:
    """The full name of the default base image."""
    (name,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return f"docker.io/library/{name}"


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with all its files in one folder."""

    program: Path
    folder: Path
    library_cache: Path | None
    driver: str

    def __call__(self, *arguments: str | Path) -> str:
        command: list[str | Path] = [self.program, "--storage-driver", self.driver]
        command += ["--root", self.folder / "storage", "--runroot", self.folder / "run"]
        command += ["--registries-conf", self.folder / "registries.conf", *arguments]
        if self.library_cache is not None:
            command = ["sh", "-euc", WITH_LIBRARIES, "sh", self.library_cache, *command]
        # Its mounts end with it.
        with without_leftovers(Path("/var/lib/containers")):
            return run(
                "unshare",
                "--mount",
                *command,
                HOME=str(self.folder),
                TMPDIR=str(self.folder / "tmp"),
                XDG_RUNTIME_DIR=str(self.folder / "tmp"),
                CONTAINERS_CONF=str(self.folder / "containers.conf"),
                CONTAINERS_STORAGE_CONF=str(self.folder / "storage.conf"),
            )

    @property
    def policy(self) -> tuple[str | Path, ...]:
        return ("--signature-policy", self.folder / "policy.json")


@contextmanager
def without_leftovers(folder: Path) -> Iterator[None]:
    """Remove a cache that buildah writes regardless of its options."""
    was_there = folder.exists()
    yield
    if not was_there:
        shutil.rmtree(folder, ignore_errors=True)


def overlay_works(folder: Path) -> bool:
    """Whether overlays work; without them each step of a build copies the whole file system."""
    parts = [folder / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    lower, upper, work, merged = parts
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    try:
        run("unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, merged)
    except BuildFailed:
        return False
    finally:
        shutil.rmtree(folder)
    return True


def buildah(announce: Announce) -> Buildah:
    """Raises DownloadFailed."""
    program, libraries = packages.buildah(PACKAGES, announce)
    FOLDER.mkdir(parents=True, exist_ok=True)
    driver = "overlay" if overlay_works(FOLDER / "trial") else "vfs"
    folder = FOLDER / driver
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    (folder / "registries.conf").write_text(REGISTRIES)
    (folder / "policy.json").write_text(POLICY)
    (folder / "storage.conf").write_text(f'[storage]\ndriver = "{driver}"\n')
    (folder / "containers.conf").write_text("")
    cache = None
    if libraries:
        cache = folder / "ld.so.cache"
        run("ldconfig", "-X", "-C", cache, *libraries)
    return Buildah(program, folder, cache, driver)


def make_base(builder: Buildah, mirror: str, announce: Announce) -> str:
    """The stand-in's id, created if it is missing; raises DownloadFailed or BuildFailed."""
    name = base_name()
    recipe = hashlib.sha256("|".join((name, BASE_PACKAGES, *BASE_WITHOUT)).encode()).hexdigest()[:12]
    tag = f"localhost/stand-in:{recipe}"
    if not (image_ids := builder("images", "--quiet", "--filter", f"reference={tag}").split()):
        announce(f"making a stand-in for {name} with debootstrap, only this once")
        folder = FOLDER / "base"
        shutil.rmtree(folder, ignore_errors=True)
        script, parts = packages.debootstrap(PACKAGES, announce)
        suite = name.rpartition("-")[2]
        options = ("--variant=minbase", f"--include={BASE_PACKAGES}")
        run("sh", script, *options, suite, folder, mirror, DEBOOTSTRAP_DIR=str(parts))
        (folder / "usr/bin/python").symlink_to("python3")
        # The build may not download packages.
        (folder / "etc/apt/sources.list").write_text("")
        for part in BASE_WITHOUT:
            shutil.rmtree(folder / part, ignore_errors=True)
        container = builder("from", "scratch").strip()
        builder("add", "--quiet", container, folder, "/")
        builder("commit", *builder.policy, "--format", "docker", "--rm", "--quiet", container, tag)
        shutil.rmtree(folder)
        image_ids = builder("images", "--quiet", "--filter", f"reference={tag}").split()
    builder("tag", tag, name)
    return image_ids[0]


def wheels(announce: Announce) -> Path:
    """Download every package of the locks with this machine's pip and its configuration."""
    digest = hashlib.sha256()
    for lock in LOCKS:
        digest.update((CHECKOUT / lock).read_bytes())
    folder = FOLDER / f"wheels-{digest.hexdigest()[:12]}"
    if not folder.exists():
        for old in FOLDER.glob("wheels-*"):
            shutil.rmtree(old)
        (version,) = re.findall(r":(\d+\.\d+)", base_name())
        announce(f"downloading the packages of {' and '.join(LOCKS)}")
        partial = folder.with_suffix(".partial")
        command = f"-m pip download --quiet --require-hashes --no-deps --only-binary=:all: --dest {partial}"
        requirements = [word for lock in LOCKS for word in ("--requirement", lock)]
        run(sys.executable, *command.split(), "--python-version", version, *requirements, **os.environ)
        partial.rename(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Layer:
    made_by: str
    archive: Path

    @property
    def size(self) -> int:
        return self.archive.stat().st_size


@dataclass(frozen=True, slots=True)
class Image:
    configuration: dict[str, Any]
    """In Docker's format: Env, Entrypoint, Healthcheck and others."""
    history: list[str]
    layers: list[Layer]
    """The layers above the base."""
    root: Path
    """All layers, unpacked."""

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.configuration["Env"])

    @property
    def volume(self) -> Path:
        """The folder of the spool."""
        return self.root / self.configuration["WorkingDir"].lstrip("/")

    def confined(self, spool: Path) -> list[str]:
        """Its command and arguments follow; the first process of a container of its own."""
        user, group = self.configuration["User"].split(":")
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONFINE, "sh")
        folder = self.configuration["WorkingDir"]
        return [*namespaces, str(self.root), str(spool), folder, user, group]


@contextmanager
def built(folder: Path, mirror: str, announce: Announce) -> Iterator[Image]:
    """The image of this checkout, unpacked into the folder; raises DownloadFailed or BuildFailed."""
    builder = buildah(announce)
    base = make_base(builder, mirror, announce)
    configuration = folder / "pip.conf"
    configuration.write_text("[global]\nno-index = true\nfind-links = /mnt\n")
    command: list[str | Path] = ["bud", *builder.policy, "--format", "docker", "--isolation", "chroot"]
    command += ["--pull-never", "--network", "host", "--layers", "--no-cache"]
    command += ["--secret", f"id=pip,src={configuration}", "--volume", f"{wheels(announce)}:/mnt:ro"]
    identity = folder / "id"
    try:
        builder(*command, "--iidfile", identity, "--file", DOCKERFILE, CHECKOUT)
        image = identity.read_text().strip().removeprefix("sha256:")
        saved = folder / "saved"
        builder("push", *builder.policy, "--quiet", "--disable-compression", image, f"dir:{saved}")
        layers_of_base = json.loads(builder("inspect", "--type", "image", base))["Docker"]["rootfs"][
            "diff_ids"
        ]
        yield unpacked(saved, len(layers_of_base), folder / "root")
    finally:
        made = set(builder("images", "--all", "--quiet", "--no-trunc").split())
        if others := {image for image in made if base not in image}:
            builder("rmi", "--force", *others)


def unpacked(saved: Path, layers_of_base: int, root: Path) -> Image:
    def blob(entry: dict[str, str]) -> Path:
        return saved / entry["digest"].removeprefix("sha256:")

    manifest = json.loads((saved / "manifest.json").read_text())
    image = json.loads(blob(manifest["config"]).read_text())
    archives = [blob(entry) for entry in manifest["layers"]]
    root.mkdir()
    for archive in archives:
        run("tar", "-x", "--numeric-owner", "--same-permissions", "-C", root, "-f", archive)
    steps = [str(step["created_by"]) for step in image["history"] if not step.get("empty_layer")]
    layers = [Layer(*pair) for pair in zip(steps, archives, strict=True)]
    history = [str(step.get("created_by")) for step in image["history"]]
    return Image(image["config"], history[layers_of_base:], layers[layers_of_base:], root)
