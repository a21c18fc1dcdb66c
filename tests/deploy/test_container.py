"""deploy/Dockerfile, tested without an engine."""

import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy.local.services import CHECKOUT
from tests.deploy.tools import DEPLOY, run, tool
from worker.postgres.migrations import migrations

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
# Sources and target of each COPY from the checkout.
COPIES = [arguments.split() for arguments in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built only from the files that the image copies."""
    folder = tmp_path_factory.mktemp("build")
    for *sources, _target in COPIES:
        for source in sources:
            assert (CHECKOUT / source).exists(), source
            if (CHECKOUT / source).is_dir():
                shutil.copytree(
                    CHECKOUT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(CHECKOUT / source, folder)
    command = "-m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist ."
    built = run(sys.executable, *command.split(), folder=folder)
    assert built.returncode == 0, built.stderr
    (made,) = (folder / "dist").glob("*.whl")
    return made


def test_hadolint_accepts_the_dockerfile() -> None:
    result = tool("hadolint", DEPLOY / "Dockerfile")

    assert result.returncode == 0, result.stdout


def test_the_builder_receives_every_file_that_the_image_copies() -> None:
    let_through = {
        line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }

    assert {source for *sources, _target in COPIES for source in sources} == let_through


def test_the_wheel_holds_every_migration(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {f"schemas/migrations/{migration.name}.sql" for migration in migrations()} <= set(names)


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "installed")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); import worker; "
        "assert 'installed' in worker.__file__, worker.__file__; "
        "sys.argv = ['stockhook', '--version']; from worker.cli.entry_point import main; main()"
    )
    output = run(sys.executable, "-P", "-c", code, folder=tmp_path)

    assert (output.returncode, output.stdout.strip()) == (0, "0.1.0"), output.stderr


def test_the_base_image_is_one_build_argument_without_a_digest() -> None:
    """A pinned digest would keep builds on an outdated base."""
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert "sha256:" not in DOCKERFILE


def test_the_build_requirements_are_locked() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    lock = (CHECKOUT / "requirements-build.lock").read_text()

    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]
    assert re.search(r"^hatchling==[0-9.]+ \\\n +--hash=sha256:", lock, re.MULTILINE)
    assert set(pins(lock)) <= set(pins((CHECKOUT / "requirements-dev.lock").read_text()))


def pins(lock: str) -> list[str]:
    return re.findall(r"^\S+==\S+", lock, re.MULTILINE)
