"""Where the programs of RabbitMQ and Postgres lie: installed, or unpacked into a folder of ours."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RabbitPrograms:
    rabbitmq: Path
    """The folder of rabbitmq-server and rabbitmqctl, not of Debian's wrappers, which want their own user."""
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
    """Looks at the files: a folder may be there and empty."""
    rabbitmq, erlang = root / "usr/lib/rabbitmq/bin", root / "usr/lib/erlang/bin"
    if has_programs(rabbitmq, "rabbitmq-server", "rabbitmqctl") and has_programs(erlang, "erl", "epmd"):
        return RabbitPrograms(rabbitmq, erlang)
    return None


def find_postgres(root: Path) -> PostgresPrograms | None:
    """The newest version below root."""
    versions = [path for path in (root / "usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    for folder in sorted(versions, key=lambda path: int(path.parent.name), reverse=True):
        if has_programs(folder, "postgres", "initdb"):
            return PostgresPrograms(folder)
    return None


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
