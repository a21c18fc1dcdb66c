"""Secrets for this machine only, generated once and stored in a file that only this user can read."""

import base64
import json
import os
import secrets
from pathlib import Path

KINDS = (
    "rabbitmq_password",
    "postgres_password",
    "ovoko_secret",
    "buyback_token",
    "sealing_key",
    "console_password",
)


def make_secret(kind: str) -> str:
    if kind == "sealing_key":
        return base64.urlsafe_b64encode(os.urandom(32)).decode()  # the form of a Fernet key
    return secrets.token_hex(16)


def write_private(path: Path, text: str) -> None:
    """Writes the file atomically, with mode 600 from the start."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def remembered_secrets(path: Path) -> dict[str, str]:
    """All secrets; generates and adds missing ones. A damaged file raises: existing data needs its keys."""
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    complete = {kind: known.get(kind) or make_secret(kind) for kind in KINDS}
    if complete != known:
        write_private(path, json.dumps(complete, indent=1))
    return complete
