"""The AsyncAPI documents, with the default settings."""

from collections.abc import Callable, Mapping
from functools import partial

from pydantic import SecretStr

from worker.config.settings import Settings
from worker.observability.inert_text import json_text
from worker.tools.asyncapi.documents import DOCUMENTS


def asyncapi_files() -> Mapping[str, Callable[[], str]]:
    """By the name of the file. The virtual host is that of the other generated files."""
    return {f"{name}.json": partial(_text, name) for name in DOCUMENTS}


def _text(name: str) -> str:
    settings = Settings(amqp_url=SecretStr("amqp://localhost/stockhook"))
    return json_text(DOCUMENTS[name](settings), indent=True) + "\n"
