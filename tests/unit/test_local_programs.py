"""The choice among installed programs."""

from pathlib import Path

from deploy.local.programs import PostgresPrograms, RabbitPrograms, find_postgres, find_rabbitmq


def install(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)


def install_rabbitmq(root: Path, version: str) -> None:
    scripts = root / f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin"
    links = root / "usr/lib/rabbitmq/bin"
    links.mkdir(parents=True)
    for name in ("rabbitmq-server", "rabbitmqctl"):
        install(scripts / name)
        (links / name).symlink_to(scripts / name)
    for name in ("erl", "epmd"):
        install(root / "usr/lib/erlang/bin" / name)


def install_postgres(root: Path, version: str) -> None:
    for name in ("postgres", "initdb"):
        install(root / f"usr/lib/postgresql/{version}/bin" / name)


def test_an_installed_broker_is_taken(tmp_path: Path) -> None:
    install_rabbitmq(tmp_path, "4.2.1")

    assert find_rabbitmq(tmp_path) == RabbitPrograms(
        tmp_path / "usr/lib/rabbitmq/bin", tmp_path / "usr/lib/erlang/bin"
    )


def test_a_broker_without_safe_dead_lettering_is_not_taken(tmp_path: Path) -> None:
    install_rabbitmq(tmp_path, "3.9.27")

    assert find_rabbitmq(tmp_path) is None


def test_folders_without_files_are_not_an_installation(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/rabbitmq/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/erlang/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/postgresql/15/bin").mkdir(parents=True)

    assert find_rabbitmq(tmp_path) is None
    assert find_postgres(tmp_path) is None


def test_the_newest_complete_postgres_is_taken(tmp_path: Path) -> None:
    install_postgres(tmp_path, "9")
    install_postgres(tmp_path, "15")
    install_postgres(tmp_path, "16")
    (tmp_path / "usr/lib/postgresql/17/bin").mkdir(parents=True)

    assert find_postgres(tmp_path) == PostgresPrograms(tmp_path / "usr/lib/postgresql/16/bin")


def test_a_postgres_that_is_too_old_is_not_taken(tmp_path: Path) -> None:
    install_postgres(tmp_path, "14")

    assert find_postgres(tmp_path) is None
