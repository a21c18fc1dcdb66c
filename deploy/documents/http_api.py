"""The HTTP requests that the ingest answers, from its OpenAPI document."""

import json

from worker.config.settings import Settings
from worker.ingest.openapi import openapi_document

_METHODS = ("get", "head", "options", "post")


def http_requests_table() -> str:
    """One row per method and status, with the paths that return it."""
    document = json.loads(openapi_document(Settings()))
    paths: dict[tuple[str, str, str], list[str]] = {}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            for status, response in operations.get(method, {}).get("responses", {}).items():
                paths.setdefault((method.upper(), status, response["description"]), []).append(f"`{path}`")
    rows = [
        f"| {method} | {', '.join(answering)} | {status} | {meaning} |"
        for (method, status, meaning), answering in paths.items()
    ]
    return "\n".join(["| method | path | status | meaning |", "| --- | --- | --- | --- |", *rows, ""])
