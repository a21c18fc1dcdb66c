"""The OpenAPI 3.1 document of the ingest, made from the models."""

from importlib.metadata import version
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.events import Provider, webhook_models

_REF = "#/components/schemas/{model}"
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_ACCEPTED = {
    "type": "object",
    "required": ["status", "event_id"],
    "properties": {
        "status": {"const": "accepted"},
        "event_id": {"type": "string", "format": "uuid"},
    },
}
_REFUSALS = {
    "400": "Not a webhook: not even its secret can be read",
    "401": "No active secret",
    "404": "The endpoint is off: it is not configured",
    "405": "A method that is not allowed",
    "408": "The body came too slowly",
    "411": "Neither Content-Length nor Transfer-Encoding: whether there is a body is unknown",
    "413": "The body is too large",
    "415": "The body is neither JSON nor what Content-Encoding says",
    "503": "Nothing can take the event in: send it again",
}

_OFF = {
    "description": _REFUSALS["404"],
    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
}
# Requests that a console sends to check an address.
_CHECKS = {
    "get": {"summary": "Served", "responses": {"200": {"description": "Empty"}, "404": _OFF}},
    "head": {"summary": "Served", "responses": {"200": {"description": "Empty"}, "404": _OFF}},
    "options": {
        "summary": "Methods",
        "responses": {
            "204": {
                "description": "Empty",
                "headers": {"Allow": {"required": True, "schema": {"type": "string"}}},
            },
            "404": _OFF,
        },
    },
}


def openapi_document(ovoko_header: str) -> bytes:
    """As JSON. `ovoko_header` is the header that carries Ovoko's secret."""
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation") for provider in Provider for model in webhook_models(provider).values()
    ]
    references, definitions = models_json_schema(models, ref_template=_REF)
    ovoko, buyback = (
        {"oneOf": [references[model, "validation"] for model in webhook_models(provider).values()]}
        for provider in Provider
    )
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Stockhook ingest",
            "version": version("stockhook"),
            "description": "Takes marketplaces' webhooks in. An answer of 200 means that the event is "
            "stored; what is authentic but odd is stored too, and set aside for people.",
        },
        "paths": {
            "/webhooks/ovoko": {"post": _ovoko_operation(ovoko), **_CHECKS},
            "/webhooks/buyback": {"post": _buyback_operation(buyback), **_CHECKS},
            "/livez": {"get": _look("The process is alive", {"200": "Alive"})},
            "/readyz": {"get": _look("Events can be taken in", {"200": "Ready", "503": "Not ready"})},
            "/openapi.json": {"get": _look("This document", {"200": "OpenAPI 3.1"})},
        },
        "components": {
            "schemas": {**definitions["$defs"], "Accepted": _ACCEPTED, "Problem": _PROBLEM},
            "securitySchemes": {
                "ovoko": {"type": "apiKey", "in": "header", "name": ovoko_header},
            },
        },
    }
    return orjson.dumps(document)


def _ovoko_operation(flat: dict[str, Any]) -> dict[str, Any]:
    wrapped = {"type": "object", "required": ["event"], "properties": {"event": flat}}
    return {
        **_webhook("Ovoko's events, flat or wrapped", {"anyOf": [flat, wrapped]}),
        "security": [{"ovoko": []}],
    }


def _buyback_operation(event: dict[str, Any]) -> dict[str, Any]:
    with_token = {
        "type": "object",
        "required": ["token"],
        "properties": {"token": {"type": "string", "description": "The subscription's secret"}},
    }
    return _webhook("Luxclusif Buyback's events", {"allOf": [with_token, event]})


def _webhook(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _response("Stored", "application/json", "Accepted"),
            **{
                status: _response(words, "application/problem+json", "Problem")
                for status, words in _REFUSALS.items()
            },
        },
    }


def _look(summary: str, answers: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "summary": summary,
        "responses": {
            status: {"description": words, "content": content} for status, words in answers.items()
        },
    }


def _response(words: str, content_type: str, schema: str) -> dict[str, Any]:
    return {
        "description": words,
        "content": {content_type: {"schema": {"$ref": _REF.format(model=schema)}}},
    }
