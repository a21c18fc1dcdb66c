"""A copy of the checkout, to change files that no other test sees changed."""

import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def copy_checkout(folder: Path) -> None:
    """Copy the files that git knows, as they are in the working tree."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (CHECKOUT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
    packages = CHECKOUT / ".dev" / "packages"
    if packages.exists():  # RabbitMQ and Postgres need not be downloaded again.
        (folder / ".dev").mkdir()
        (folder / ".dev" / "packages").symlink_to(packages)
