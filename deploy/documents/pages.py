"""The files and parts of pages that are generated from the code.

A generated part is between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of the page is
written by hand.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.documents.asyncapi import asyncapi_files
from deploy.documents.changes import changes_reference
from deploy.documents.cli import cli_reference, cli_summary
from deploy.documents.configuration import configuration_table
from deploy.documents.events import events_reference
from deploy.documents.gateways import presets_table
from deploy.documents.http_api import http_requests_table
from deploy.documents.kubernetes import consumers, scaled_objects
from deploy.documents.metrics import metrics_table
from deploy.documents.queues import bindings_table, exchanges_table, queues_table
from deploy.documents.systemd import systemd_files
from deploy.documents.tables import tables_reference

_CHECKOUT = Path(__file__).parents[2]
REFERENCE = _CHECKOUT / "docs/reference"
ASYNCAPI = REFERENCE / "asyncapi"

TABLES = "tables"
"""The part that needs a database."""

PARTS: Mapping[str, Callable[[], str]] = {
    "bindings": bindings_table,
    "changes": changes_reference,
    "cli": cli_reference,
    "cli-summary": cli_summary,
    "configuration": configuration_table,
    "events": events_reference,
    "exchanges": exchanges_table,
    "gateway-presets": presets_table,
    "http-requests": http_requests_table,
    "metrics": metrics_table,
    "queues": queues_table,
    TABLES: tables_reference,
}

FILES: Mapping[Path, Callable[[], str]] = {
    _CHECKOUT / "deploy/kubernetes/40-consumers.yaml": consumers,
    _CHECKOUT / "deploy/kubernetes/60-keda.yaml": scaled_objects,
    **{_CHECKOUT / "deploy/systemd" / name: text for name, text in systemd_files().items()},
    **{ASYNCAPI / name: text for name, text in asyncapi_files().items()},
}

_PART = re.compile(r"<!-- generated: ([a-z-]+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def pages() -> list[Path]:
    return sorted(REFERENCE.glob("*.md"))


def parts_of(text: str) -> dict[str, str]:
    """The generated parts of a page in their present text, by name."""
    return dict(_PART.findall(text))


def with_parts(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The page with these parts replaced; the others stay unchanged."""

    def made(match: re.Match[str]) -> str:
        name, old = match.groups()
        return f"<!-- generated: {name} -->\n{parts[name]() if name in parts else old}<!-- end -->\n"

    return _PART.sub(made, text)
