"""The AsyncAPI documents, as the project that defines AsyncAPI validates them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.documents.pages import ASYNCAPI
from deploy.local.services import CHECKOUT, DEV

FOLDER = CHECKOUT / "deploy/asyncapi"
MODULES = DEV / "node-deploy/node_modules"
DOCUMENTS = sorted(ASYNCAPI.glob("*.json"))


def validate(*documents: Path) -> subprocess.CompletedProcess[str]:
    """Without Node.js or the parser the test is skipped with a reason."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which this machine does not have")
    if not (MODULES / "@asyncapi/parser").is_dir():
        pytest.skip("needs @asyncapi/parser, which `make check-deploy` installs")
    return subprocess.run(
        [node, FOLDER / "validate.cjs", *documents],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_documents_are_valid() -> None:
    done = validate(*DOCUMENTS)

    assert [document.name for document in DOCUMENTS] == ["changes.json", "topology.json"]
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def _without_channel(document: dict[str, Any]) -> None:
    del document["operations"]["post"]["channel"]


def _with_an_unknown_member(document: dict[str, Any]) -> None:
    document["channels"]["part"]["bindings"]["amqp"]["durable"] = True


def _with_a_wrong_type(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["PartState"]["type"] = "part"


def test_a_document_that_is_not_valid_is_noticed(tmp_path: Path) -> None:
    broken = []
    for change in (_without_channel, _with_an_unknown_member, _with_a_wrong_type):
        document = json.loads((ASYNCAPI / "changes.json").read_text())
        change(document)
        broken.append(tmp_path / f"{change.__name__}.json")
        broken[-1].write_text(json.dumps(document))
    done = validate(*broken)

    assert done.returncode == 1
    assert [path.name for path in broken if str(path) not in done.stdout] == []


def test_each_locked_package_has_a_hash() -> None:
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    locked = {name: package for name, package in packages.items() if name}

    assert len(locked) > 100
    assert all(re.match("sha512-", package["integrity"]) for package in locked.values())
