"""Programs from a Debian-like host's package sources, unpacked, not installed: no root needed.

.dev/packages/apt/          private package lists, for hosts whose own are missing, stale or not writable
.dev/packages/rabbitmq/     the unpacked tree
.dev/packages/postgresql/   the unpacked tree
.dev/packages/prometheus/   the unpacked tree, when deploy/prometheus is checked; also promtool/
.dev/packages/nginx/        the unpacked tree, when the ingest is tested behind it
.dev/packages/haproxy/      the unpacked tree, when the ingest is tested behind it
.dev/packages/pgbouncer/    the unpacked tree, when tests need it
.dev/packages/buildah/      the unpacked tree, when the image is built
.dev/packages/debootstrap/  the unpacked tree, when the image is built
.dev/packages/nftables/     the unpacked tree, when tests cut the nodes of a cluster off from each other
.dev/packages/chromium/     the unpacked tree, when the console is tested in a browser
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from deploy.local.programs import (
    PostgresPrograms,
    RabbitPrograms,
    find_postgres,
    find_rabbitmq,
    library_folders,
    with_libraries,
)

APT_SECONDS = 600
INST_LINE = re.compile(r"^Inst (?P<name>[a-z0-9][a-z0-9.+-]*)(?P<installed> \[[^]]*\])? \(", re.MULTILINE)
ERLANG_ROOT = re.compile(r"^(\s*)ROOTDIR=.*$", re.MULTILINE)


class DownloadFailed(Exception):
    """The packages could not be downloaded; the message quotes apt."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The packages of one service."""

    name: str
    package: str
    core: re.Pattern[str]
    """Always downloaded, because dpkg may list these as installed although their files are missing."""
    others: tuple[str, ...] = ()
    """Packages that the package does not depend on."""


RABBITMQ = Bundle("RabbitMQ", "rabbitmq-server", re.compile(r"rabbitmq-server|erlang-.+"))
POSTGRES = Bundle("Postgres", "postgresql", re.compile(r"postgresql(-client)?-\d+"))
# Only for its promtool; Debian testing has a separate package for it.
PROMETHEUS = Bundle("Prometheus", "prometheus", re.compile(r"prometheus"))
PROMTOOL = Bundle("promtool", "promtool", re.compile(r"promtool"))
# Older releases have the program in nginx-core.
NGINX = Bundle("nginx", "nginx", re.compile(r"nginx(-core)?"))
HAPROXY = Bundle("HAProxy", "haproxy", re.compile(r"haproxy"))
# For the tests of the ingest behind it.
PGBOUNCER = Bundle("PgBouncer", "pgbouncer", re.compile(r"pgbouncer"))
# To build the image and its base without an engine.
BUILDAH = Bundle("buildah", "buildah", re.compile(r"buildah"))
DEBOOTSTRAP = Bundle("debootstrap", "debootstrap", re.compile(r"debootstrap"))
# For tests that partition a cluster.
NFTABLES = Bundle("nftables", "nftables", re.compile(r"nftables|libnftables1"))
# For tests and pictures of the console. Its fonts are the same on every machine.
CHROMIUM = Bundle(
    "Chromium",
    "chromium",
    re.compile(r"chromium(-common)?|fonts-inter|fonts-dejavu-(core|mono)|fontconfig-config"),
    ("fonts-inter", "fonts-dejavu-core", "fontconfig-config"),
)
# Of the packages that the host lacks, only libraries are needed, and not those for Perl, the JIT compiler and
# web pages.
LIBRARY = re.compile(r"lib(?!llvm|z3|perl|js-|.*-perl$).*")


@dataclass(frozen=True, slots=True)
class Apt:
    """apt-get as any user, without a change to the host."""

    options: tuple[str, ...] = ("APT::Sandbox::User=root", "APT::Install-Recommends=false")

    def run(self, *arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        options = [part for option in self.options for part in ("-o", option)]
        return subprocess.run(
            ["apt-get", "-qq", *options, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_SECONDS,
            check=False,
        )

    def with_options(self, *options: str) -> "Apt":
        return replace(self, options=(*self.options, *options))

    def simulate(self, *packages: str) -> str:
        done = self.run("--simulate", "install", *packages)
        if done.returncode != 0:
            raise DownloadFailed(last_line(done.stderr) or f"apt-get cannot install {' '.join(packages)}")
        return done.stdout

    def download(self, packages: Iterable[str], folder: Path) -> None:
        done = self.run("download", *packages, folder=folder)
        if done.returncode != 0:
            raise DownloadFailed(last_line(done.stderr))


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def would_install(simulation: str) -> list[str]:
    """Names of the packages that the host lacks, without upgrades of those that it has."""
    return [found["name"] for found in INST_LINE.finditer(simulation) if found["installed"] is None]


def needed_packages(bundle: Bundle, *, whole: str, missing: str) -> list[str]:
    """The core packages and the missing libraries, from simulations for an empty host and for this one."""
    core = [name for name in would_install(whole) if bundle.core.fullmatch(name)]
    libraries = [name for name in would_install(missing) if LIBRARY.fullmatch(name)]
    return sorted({*core, *libraries})


def apt_is_here() -> bool:
    return all(shutil.which(program) for program in ("apt-get", "dpkg"))


def private_lists(folder: Path) -> Apt:
    """Updates private package lists. An unreachable source is not an error: the others may suffice."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    apt = Apt().with_options(f"Dir::State::lists={folder / 'lists'}", f"Dir::Cache={folder / 'cache'}")
    apt.run("update")
    return apt


def host_lists() -> Apt:
    return Apt()


def fetch(bundle: Bundle, apt: Apt, *, folder: Path, announce: Callable[[str], None]) -> None:
    """Downloads and unpacks into this folder, which must be empty."""
    nothing_installed = folder / "no-status"
    nothing_installed.touch()
    wanted = (bundle.package, *bundle.others)
    whole = apt.with_options(f"Dir::State::status={nothing_installed}").simulate(*wanted)
    names = needed_packages(bundle, whole=whole, missing=apt.simulate(*wanted))
    downloads = folder / "downloads"
    downloads.mkdir()
    announce(f"{bundle.name} is not installed: downloading {len(names)} packages with apt, once")
    apt.download(names, downloads)
    archives = sorted(downloads.glob("*.deb"))
    size = sum(archive.stat().st_size for archive in archives) / 1e6
    announce(f"{bundle.name}: unpacking {size:.0f} MB")
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda archive: unpack(archive, folder), archives))
    shutil.rmtree(downloads)
    nothing_installed.unlink()


def unpack(archive: Path, folder: Path) -> None:
    done = subprocess.run(
        ["dpkg", "--extract", str(archive), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DownloadFailed(f"{archive.name}: {last_line(done.stderr)}")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Allows one download at a time, when several runs and tests start together."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def downloaded(bundle: Bundle, packages: Path, announce: Callable[[str], None]) -> Path:
    """The unpacked tree, downloaded if it is missing; raises DownloadFailed."""
    folder = packages / bundle.package
    with exclusive(packages):
        if not folder.exists():
            download_into(folder, bundle, packages, announce)
    return folder


def download_into(folder: Path, bundle: Bundle, packages: Path, announce: Callable[[str], None]) -> None:
    if re.search(r"\s", str(folder)):
        raise DownloadFailed(f"RabbitMQ cannot run from a path with spaces: {folder}")
    partial = folder.with_suffix(".partial")
    sources: list[Callable[[], Apt]] = [host_lists, lambda: private_lists(packages / "apt")]
    failures = []
    for source in sources:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fetch(bundle, source(), folder=partial, announce=announce)
        except DownloadFailed as error:
            failures.append(str(error))
            continue
        partial.rename(folder)
        return
    raise DownloadFailed(f"{bundle.name} could not be downloaded with apt: {failures[-1]}")


def downloaded_rabbitmq(packages: Path, announce: Callable[[str], None]) -> RabbitPrograms:
    root = downloaded(RABBITMQ, packages, announce)
    relocate_erlang(root.resolve())
    found = find_rabbitmq(root)
    if found is None:
        raise DownloadFailed(
            f"the package sources of this machine have no RabbitMQ 3.10 or newer (looked in {root})"
        )
    return replace(found, libraries=library_folders(root))


def downloaded_postgres(packages: Path, announce: Callable[[str], None]) -> PostgresPrograms:
    root = downloaded(POSTGRES, packages, announce)
    found = find_postgres(root)
    if found is None:
        raise DownloadFailed(
            f"the package sources of this machine have no Postgres 15 or newer (looked in {root})"
        )
    return replace(found, libraries=library_folders(root))


def promtool(packages: Path, announce: Callable[[str], None]) -> Path:
    """promtool, installed or downloaded; raises DownloadFailed."""
    installed = shutil.which("promtool")
    if installed is not None:
        return Path(installed)
    for bundle in (PROMETHEUS, PROMTOOL):
        found = downloaded(bundle, packages, announce) / "usr/bin/promtool"
        if found.exists():
            return found
    raise DownloadFailed(f"the packages prometheus and promtool contain no promtool (expected at {found})")


@dataclass(frozen=True, slots=True)
class Nginx:
    program: Path
    libraries: tuple[Path, ...] = ()


def nginx(packages: Path, announce: Callable[[str], None]) -> Nginx:
    """Installed, or downloaded; raises DownloadFailed."""
    installed = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if installed is not None:
        return Nginx(Path(installed))
    root = downloaded(NGINX, packages, announce)
    program = root / "usr/sbin/nginx"
    if not program.exists():
        raise DownloadFailed(f"the package nginx contains no program (expected at {program})")
    return Nginx(program, library_folders(root))


def haproxy(packages: Path, announce: Callable[[str], None]) -> tuple[Path, tuple[Path, ...]]:
    """The program and the folders of its libraries: installed, or downloaded; raises DownloadFailed."""
    installed = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if installed is not None:
        return Path(installed), ()
    root = downloaded(HAPROXY, packages, announce)
    return root / "usr/sbin/haproxy", library_folders(root)


def pgbouncer(packages: Path, announce: Callable[[str], None]) -> tuple[Path, tuple[Path, ...]]:
    """The program and the folders of its libraries: installed, or downloaded; raises DownloadFailed."""
    # Debian installs it in a folder that only root's PATH contains.
    installed = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if installed is not None:
        return Path(installed), ()
    root = downloaded(PGBOUNCER, packages, announce)
    return root / "usr/sbin/pgbouncer", library_folders(root)


def buildah(packages: Path, announce: Callable[[str], None]) -> tuple[Path, tuple[Path, ...]]:
    """The program and the folders of its libraries: installed, or downloaded; raises DownloadFailed."""
    installed = shutil.which("buildah")
    if installed is not None:
        return Path(installed), ()
    root = downloaded(BUILDAH, packages, announce)
    return root / "usr/bin/buildah", library_folders(root)


def debootstrap(packages: Path, announce: Callable[[str], None]) -> tuple[Path, Path]:
    """The script and the folder of its parts: installed, or downloaded; raises DownloadFailed."""
    installed = shutil.which("debootstrap", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if installed is not None:
        return Path(installed), Path("/usr/share/debootstrap")
    root = downloaded(DEBOOTSTRAP, packages, announce)
    return root / "usr/sbin/debootstrap", root / "usr/share/debootstrap"


def debian_mirror(packages: Path) -> str | None:
    """The address of Debian's main archive in this machine's package sources."""
    sources: list[Callable[[], Apt]] = [host_lists, lambda: private_lists(packages / "apt")]
    for source in sources:
        listed = source().run(
            "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"
        )
        for line in listed.stdout.splitlines():
            source_of, _, uri = line.rpartition(" ")
            if source_of == "Debian Debian" and uri.startswith(("http:", "https:", "file:")):
                return uri
    return None


def nft(packages: Path, announce: Callable[[str], None]) -> tuple[Path, tuple[Path, ...]]:
    """The program and the folders of its libraries: installed, or downloaded; raises DownloadFailed."""
    installed = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if installed is not None:
        return Path(installed), ()
    root = downloaded(NFTABLES, packages, announce)
    return root / "usr/sbin/nft", library_folders(root)


# The fonts of the tree, and no other file of the machine.
FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir>{root}/usr/share/fonts</dir>
  <cachedir>{root}/font-cache</cachedir>
  <alias binding="same"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="same">
    <family>ui-monospace</family><prefer><family>DejaVu Sans Mono</family></prefer>
  </alias>
  <alias><family>sans-serif</family><prefer><family>Inter</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


@dataclass(frozen=True, slots=True)
class Chromium:
    program: Path
    environment: Mapping[str, str]
    """Variables that the program needs besides those of this process."""


def chromium(packages: Path, announce: Callable[[str], None]) -> Chromium:
    """Installed, or downloaded; raises DownloadFailed."""
    installed = shutil.which("chromium")
    if installed is not None:
        return Chromium(Path(installed), {})
    root = downloaded(CHROMIUM, packages, announce).resolve()
    # Debian's script in usr/bin expects the program in its usual place.
    program = root / "usr/lib/chromium/chromium"
    if not program.exists():
        raise DownloadFailed(f"the package chromium contains no program (expected at {program})")
    fonts = root / "fonts.conf"
    replace_text(fonts, FONTS.format(root=root))
    libraries = library_folders(root)
    # Its sound library has a part of its own in a folder below.
    parts = tuple(folder / "pulseaudio" for folder in libraries if (folder / "pulseaudio").exists())
    return Chromium(program, {**with_libraries((*libraries, *parts)), "FONTCONFIG_FILE": str(fonts)})


def replace_text(file: Path, text: str) -> None:
    """Write a file that other processes read at the same time."""
    if not file.exists() or file.read_text() != text:
        with NamedTemporaryFile("w", dir=file.parent, delete=False) as replacement:
            replacement.write(text)
        Path(replacement.name).replace(file)


def relocate_erlang(root: Path) -> None:
    """Debian's start scripts of Erlang contain a fixed path, and the checkout may have moved since."""
    home = root / "usr/lib/erlang"
    with exclusive(root.parent):
        for script in [*home.glob("bin/erl"), *home.glob("bin/start"), *home.glob("erts-*/bin/erl")]:
            text = script.read_text()
            moved = ERLANG_ROOT.sub(lambda found: f"{found[1]}ROOTDIR={home}", text)
            if moved != text:
                replacement = script.with_suffix(".new")
                replacement.write_text(moved)
                replacement.chmod(0o755)
                replacement.replace(script)
