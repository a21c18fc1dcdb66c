"""The paths of the programs of RabbitMQ and Postgres, installed or unpacked into .dev."""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OLDEST_RABBITMQ = (3, 10)
OLDEST_POSTGRES = 15


@dataclass(frozen=True, slots=True)
class RabbitPrograms:
    rabbitmq: Path
    """The folder of rabbitmq-server and rabbitmqctl, not of Debian's wrappers, which need a certain user."""
    erlang: Path
    """The folder of erl and epmd."""
    libraries: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    folder: Path
    """The folder of postgres and initdb."""
    libraries: tuple[Path, ...] = ()


def has_programs(folder: Path, *names: str) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in names)


def find_rabbitmq(root: Path) -> RabbitPrograms | None:
    """None if it is older than OLDEST_RABBITMQ. Checks for files, because the folder may be empty."""
    rabbitmq, erlang = root / "usr/lib/rabbitmq/bin", root / "usr/lib/erlang/bin"
    complete = has_programs(rabbitmq, "rabbitmq-server", "rabbitmqctl") and has_programs(
        erlang, "erl", "epmd"
    )
    return RabbitPrograms(rabbitmq, erlang) if complete and new_enough(rabbitmq) else None


def new_enough(rabbitmq: Path) -> bool:
    """From the folder of the start script, which has the version in its name."""
    script = (rabbitmq / "rabbitmq-server").resolve()
    version = re.search(r"rabbitmq_server-(\d+)\.(\d+)", str(script))
    return version is None or (int(version[1]), int(version[2])) >= OLDEST_RABBITMQ


def find_postgres(root: Path) -> PostgresPrograms | None:
    """The newest version below root; None if that is older than OLDEST_POSTGRES."""
    names = [path.name for path in (root / "usr/lib/postgresql").glob("*") if path.name.isdigit()]
    versions = sorted((int(name) for name in names if int(name) >= OLDEST_POSTGRES), reverse=True)
    folders = [root / "usr/lib/postgresql" / str(version) / "bin" for version in versions]
    return next(
        (PostgresPrograms(path) for path in folders if has_programs(path, "postgres", "initdb")), None
    )


def installed_rabbitmq() -> RabbitPrograms | None:
    return find_rabbitmq(Path("/"))


def installed_postgres() -> PostgresPrograms | None:
    if (found := find_postgres(Path("/"))) is not None:
        return found
    on_path = shutil.which("postgres")
    folder = None if on_path is None else Path(on_path).resolve().parent
    return (
        PostgresPrograms(folder)
        if folder is not None and has_programs(folder, "postgres", "initdb")
        else None
    )


def library_folders(root: Path) -> tuple[Path, ...]:
    return tuple(path for parent in ("usr/lib", "lib") for path in (root / parent).glob("*-linux-gnu*"))


def with_libraries(folders: Iterable[Path]) -> dict[str, str]:
    path = ":".join(str(folder) for folder in folders)
    return {"LD_LIBRARY_PATH": path} if path else {}
