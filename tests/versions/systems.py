"""A Debian system per suite below .dev/versions, and commands that run inside it.

.dev/versions/SUITE/           the system; /stockhook in it is a copy of the checkout
.dev/versions/SUITE.partial/   an incomplete system; renamed when it is complete
.dev/versions/SUITE.log        the output of the last run
.dev/versions/pip/             pip's cache, for all systems

Only .dev is written. Mounts are in a private mount namespace, which ends with the last process in it.
"""

import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.local.packages import DownloadFailed, debian_mirror, debootstrap
from tests.versions.suites import PACKAGES, Suite

CHECKOUT = Path(__file__).resolve().parents[2]
VERSIONS = CHECKOUT / ".dev" / "versions"
PROGRAMS = CHECKOUT / ".dev" / "packages"
INSIDE = "/stockhook"
STAMP = "etc/stockhook-packages"
PIP_CACHE = "/var/cache/pip"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

SCRIPT_OF_UNKNOWN_SUITES = "sid"

# Configuration of this machine's access to package sources; the systems use it too.
PASSED_ON = re.compile(
    r"PIP_.*|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(https?|all|no)_proxy", re.I
)
APT_PASSED_ON = re.compile(r"Acquire::(http|https|Check-.*|Retries)\b.*", re.I)
ABSOLUTE_PATH = re.compile(r"(?<!\S)(?:file://)?(/[^\s/]\S*)")
INDEX = re.compile(r"(?<!\S)file://(/\S+)")

NO_SERVICES = "#!/bin/sh\nexit 101\n"
QUICK_DPKG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
"""

ENTER = """\
root=$1
shift
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs dev/shm
while [ "$1" != -- ]; do
    mount --bind "$1" "./$2"
    shift 2
done
shift
pivot_root . .
umount --lazy .
cd "$INSIDE"
"$@"
exit $?
"""
"""The shell stays the first process of the namespace, which waits for orphaned processes."""


class CannotRun(Exception):
    """This machine cannot create or run such a system; the message is the reason, in one sentence."""


@dataclass(frozen=True, slots=True)
class System:
    suite: Suite
    folder: Path

    def run(self, *command: str, inside: str = "/") -> "subprocess.Popen[bytes]":
        environment, binds = passed_on()
        pip = VERSIONS / "pip"
        pip.mkdir(exist_ok=True)
        mounts = [(str(pip), PIP_CACHE), *((path, path) for path in binds)]
        for source, target in mounts:
            place_for(Path(source), self.folder / target.lstrip("/"))
        return subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-euc", ENTER, "enter", str(self.folder)),
                *(part for mount in mounts for part in mount),
                "--",
                *command,
            ],
            env={**environment, "INSIDE": inside},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def output(self, *command: str) -> str:
        """The output of a command; raises CannotRun if it fails."""
        process = self.run(*command)
        printed = process.communicate()[0].decode(errors="replace")
        if process.returncode != 0:
            tail = " / ".join(printed.strip().splitlines()[-3:])
            raise CannotRun(f"{self.suite.name}: `{' '.join(command)[:80]}` failed: {tail}")
        return printed


def require_root() -> None:
    if os.geteuid() != 0:
        raise CannotRun("making and entering a Debian system needs root; run this as root")
    for program in ("unshare", "setpriv", "pivot_root", "chroot", "git"):
        if shutil.which(program, path=search_path()) is None:
            raise CannotRun(f"this machine lacks the program {program}")
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        raise CannotRun(f"root cannot create namespaces on this machine: {probe.stderr.strip()}")


def search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@contextmanager
def system(
    suite: Suite, *, mirror: str | None, fresh: bool, announce: Callable[[str], None]
) -> Iterator[System]:
    """The system of this suite, created if it is missing, and locked for this run."""
    VERSIONS.mkdir(parents=True, exist_ok=True)
    with (VERSIONS / f"{suite.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = VERSIONS / suite.name
        wanted = "\n".join(PACKAGES) + "\n"
        stamp = folder / STAMP
        if fresh or not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            partial = make(suite, mirror or debian_mirror(PROGRAMS), announce)
            (partial / STAMP).write_text(wanted)
            partial.rename(folder)
        made = System(suite, folder)
        copy_configuration(folder)
        yield made


def make(suite: Suite, mirror: str | None, announce: Callable[[str], None]) -> Path:
    if mirror is None:
        raise CannotRun("the apt sources of this machine name no archive of Debian; pass --mirror ADDRESS")
    partial = VERSIONS / f"{suite.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    announce(f"{suite.name}: creating the system with debootstrap, only the first time")
    try:
        program, folder = debootstrap(PROGRAMS, announce)
    except DownloadFailed as error:
        raise CannotRun(f"debootstrap is not installed and could not be downloaded: {error}") from error
    script = folder / "scripts" / suite.name
    if not script.exists():
        script = folder / "scripts" / SCRIPT_OF_UNKNOWN_SUITES
    log = VERSIONS / f"{suite.name}.debootstrap.log"
    with log.open("w") as printed:
        done = subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", str(program)),
                *("--variant=minbase", "--include=ca-certificates"),
                *(suite.name, str(partial), mirror, str(script)),
            ],
            env={**os.environ, "DEBOOTSTRAP_DIR": str(folder), "PATH": search_path()},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise CannotRun(f"debootstrap could not make {suite.name}; see {log}")
    for name, text, mode in (
        ("usr/sbin/policy-rc.d", NO_SERVICES, 0o755),
        ("etc/dpkg/dpkg.cfg.d/quick", QUICK_DPKG, 0o644),
        ("etc/postgresql-common/createcluster.conf", "create_main_cluster = false\n", 0o644),
    ):
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    copy_configuration(partial)
    announce(f"{suite.name}: installing {len(PACKAGES)} packages in it and what they need")
    made = System(suite, partial)
    made.output("apt-get", "-qq", "update")
    made.output(
        *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "--yes", "--no-install-recommends"),
        *("-o", "Dpkg::Options::=--force-confold", "install", *PACKAGES),
    )
    made.output("apt-get", "clean")
    return partial


def copy_configuration(root: Path) -> None:
    """Copy the configuration of name resolution and package sources."""
    for name in ("etc/hosts", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
        shutil.copyfile(Path("/") / name, root / name)
    if CA_BUNDLE.exists():
        target = root / str(CA_BUNDLE).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CA_BUNDLE, target)
    write_private(root / "etc/pip.conf", pip_configuration(pip_config_list()))
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    chosen = [line for line in dump.splitlines() if APT_PASSED_ON.match(line)]
    write_private(root / "etc/apt/apt.conf.d/99this-machine", "".join(f"{line}\n" for line in chosen))


def write_private(path: Path, text: str) -> None:
    """Write a file that may contain a password."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


def pip_config_list() -> str:
    return subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout


def pip_configuration(listed: str) -> str:
    """One file from all of pip's configuration files; variables are passed in the environment."""
    sections: dict[str, list[str]] = {}
    for line in listed.splitlines():
        name, _, shown = line.partition("=")
        section, _, key = name.rpartition(".")
        if section and not section.startswith(":"):
            value = str(ast.literal_eval(shown)).strip().replace("\n", "\n    ")
            sections.setdefault(section, []).append(f"{key} = {value}")
    return "".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())


def passed_on() -> tuple[dict[str, str], list[str]]:
    """The environment inside, and the paths of this machine that must be mounted there."""
    chosen = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PIP_CERT": str(CA_BUNDLE),
        "PIP_ROOT_USER_ACTION": "ignore",
        **chosen,
        "PIP_CACHE_DIR": PIP_CACHE,
    }
    named = "\n".join([pip_configuration(pip_config_list()), *chosen.values()])
    return environment, local_paths(named)


def local_paths(text: str) -> list[str]:
    """Existing files and folders outside of /etc/ssl that a configuration names."""
    paths = {Path(path) for path in ABSOLUTE_PATH.findall(text)}
    # The pages of an index name files in the same folder.
    paths |= {Path(path).parent for path in INDEX.findall(text) if len(Path(path).parent.parts) > 2}
    return sorted(str(path) for path in paths if path.parts[1:3] != ("etc", "ssl") and path.exists())


def place_for(source: Path, target: Path) -> None:
    """Create a mount point."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


GIT_ENVIRONMENT: Mapping[str, str] = {
    # Allow root to use a checkout of another user.
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**os.environ, **GIT_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotRun(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout


def copy_checkout(source: Path, target: Path) -> str:
    """Copy the commit that is checked out, and uncommitted changes without ignored files.

    Ignored files of the last run stay: .venv and .dev. Returns the commit, with a + for changes.
    """
    if not (target / ".git").exists():
        target.mkdir(parents=True, exist_ok=True)
        git(target, "init", "--quiet")
    git(target, "fetch", "--quiet", "--no-tags", "--update-shallow", str(source), "HEAD")
    git(target, "reset", "--quiet", "--hard", "FETCH_HEAD")
    git(target, "clean", "--quiet", "--force", "-d")
    changed = names(git(source, "diff", "--name-only", "--no-renames", "-z", "HEAD"))
    added = names(git(source, "ls-files", "--others", "--exclude-standard", "-z"))
    for name in [*changed, *added]:
        (target / name).unlink(missing_ok=True)
        if (source / name).is_symlink() or (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name, follow_symlinks=False)
    commit = git(source, "rev-parse", "--short=10", "HEAD").strip()
    return commit + ("+" if changed or added else "")


def names(listed: str) -> list[str]:
    return [name for name in listed.split("\0") if name]


def tee(printed: IO[bytes], log: Path) -> str:
    """Print the output immediately, write it to the log, and return all of it."""
    with log.open("wb") as log_file:
        while part := os.read(printed.fileno(), 65536):
            sys.stdout.buffer.write(part)
            sys.stdout.flush()
            log_file.write(part)
    return log.read_text(errors="replace")


def installed_versions(made: System) -> dict[str, str]:
    """The versions of the programs that the tests use there, by name."""
    listed = made.output(
        "dpkg-query",
        "--show",
        "--showformat=${Package} ${Version}\n",
        *("rabbitmq-server", "erlang-base", "pgbouncer", "nginx", "openssl"),
    )
    packages = dict(line.split() for line in listed.splitlines())
    postgres = made.output("sh", "-c", "/usr/lib/postgresql/*/bin/postgres --version")
    python = made.output("python3", "--version")
    return {
        "RabbitMQ": upstream(packages["rabbitmq-server"]),
        "Erlang": upstream(packages["erlang-base"]),
        "Postgres": first_number(postgres),
        "Python": first_number(python),
        "PgBouncer": upstream(packages["pgbouncer"]),
        "nginx": upstream(packages["nginx"]),
        "OpenSSL": upstream(packages["openssl"]),
    }


def upstream(version: str) -> str:
    """The program's version within a package's version."""
    return re.split(r"[-+~]", version.rpartition(":")[2])[0]


def first_number(text: str) -> str:
    match = re.search(r"\d+(\.\d+)+", text)
    return match[0] if match else "unknown"


def unexpected(suite: Suite, installed: Mapping[str, str]) -> list[str]:
    """One sentence per version of another series than the expected one."""
    expected: Sequence[tuple[str, str]] = (
        ("RabbitMQ", suite.rabbitmq),
        ("Postgres", suite.postgres),
        ("Python", suite.python),
    )
    return [
        f"{suite.name} now has {name} {installed[name]}, where {version} was expected"
        for name, version in expected
        if not f"{installed[name]}.".startswith(f"{version}.")
    ]
