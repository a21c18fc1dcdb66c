"""The OpenAPI 3.1 document of the ingest, made from the models."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, assert_never

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from worker.config.gateway import Gateway
from worker.config.settings import Settings
from worker.marketplaces.contract import JsonSchema, Marketplace, SecretHeader, SecretMember
from worker.marketplaces.registry import MARKETPLACES

_REF = "#/components/schemas/{model}"
_GATEWAY = "gateway"
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
    "401": "No active secret, or a signature of the gateway that is missing or refused",
    "404": "The endpoint is disabled: it is not configured",
    "405": "A method that is not allowed",
    "408": "The body did not arrive whole, or too slowly",
    "411": "Neither Content-Length nor Transfer-Encoding: whether there is a body is unknown",
    "413": "The body is too large",
    "415": "The body is neither JSON nor what Content-Encoding says",
    "503": "The event cannot be stored, or too many bodies arrive: send it again",
}

_DISABLED = {
    "description": _REFUSALS["404"],
    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
}
# Requests that a console sends to check an address.
_CHECKS = {
    "get": {"summary": "Served", "responses": {"200": {"description": "Empty"}, "404": _DISABLED}},
    "head": {"summary": "Served", "responses": {"200": {"description": "Empty"}, "404": _DISABLED}},
    "options": {
        "summary": "Methods",
        "responses": {
            "204": {
                "description": "Empty",
                "headers": {"Allow": {"required": True, "schema": {"type": "string"}}},
            },
            "404": _DISABLED,
        },
    },
}


def openapi_document(settings: Settings) -> bytes:
    """As JSON. The settings name the headers that carry secrets."""
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation")
        for marketplace in MARKETPLACES.values()
        for model in marketplace.schema.webhooks
    ]
    references, definitions = models_json_schema(models, ref_template=_REF)
    paths = {}
    security_schemes = {}
    for name, marketplace in MARKETPLACES.items():
        event = {"oneOf": [references[model, "validation"] for model in marketplace.schema.webhooks]}
        gateway = settings.gateway_of(name)
        paths[marketplace.path] = {"post": _operation(marketplace, gateway, event), **_CHECKS}
        if gateway is not None:
            security_schemes[_GATEWAY] = {
                "type": "apiKey",
                "in": "header",
                "name": gateway.scheme.header[0],
                "description": "The signature of the gateway in front of the ingest",
            }
        if isinstance(marketplace.authentication, SecretHeader):
            header = marketplace.authentication.name(settings)
            security_schemes[name.value] = {"type": "apiKey", "in": "header", "name": header}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Stockhook ingest",
            "version": version("stockhook"),
            "description": "Receives marketplaces' webhooks. An answer of 200 means that the event is "
            "stored; an authentic but malformed one is stored too, in the quarantine.",
        },
        "servers": [{"url": settings.ingest_path_prefix or "/"}],
        "paths": {
            **paths,
            "/livez": {"get": _operation_of("The process is alive", {"200": "Alive"})},
            "/readyz": {"get": _operation_of("Events can be received", {"200": "Ready", "503": "Not ready"})},
            "/openapi.json": {"get": _operation_of("This document", {"200": "OpenAPI 3.1"})},
        },
        "components": {
            "schemas": {**definitions["$defs"], "Accepted": _ACCEPTED, "Problem": _PROBLEM},
            "securitySchemes": security_schemes,
        },
    }
    return orjson.dumps(document)


def _operation(marketplace: Marketplace, gateway: Gateway | None, event: JsonSchema) -> JsonSchema:
    body = marketplace.body_schema(event)
    match marketplace.authentication:
        case SecretHeader():
            operation, own = _webhook(marketplace.summary, body), [marketplace.name.value]
        case SecretMember(name=member):
            secret = {"type": "string", "description": "The subscription's secret"}
            with_secret = {"type": "object", "required": [member], "properties": {member: secret}}
            is_replaced = gateway is not None and gateway.require == "gateway"
            schema = body if is_replaced else {"allOf": [with_secret, body]}
            operation, own = _webhook(marketplace.summary, schema), list[str]()
        case unreachable:
            assert_never(unreachable)
    security = _security(gateway, own)
    return {**operation, "security": security} if any(security) else operation


def _security(gateway: Gateway | None, own: Sequence[str]) -> list[JsonSchema]:
    """Alternatives, each a set of required schemes."""
    alternatives: list[Sequence[str]]
    match None if gateway is None else gateway.require:
        case None:
            alternatives = [own]
        case "both":
            alternatives = [[_GATEWAY, *own]]
        case "gateway":
            alternatives = [[_GATEWAY]]
        case "optional":
            alternatives = [[_GATEWAY, *own], own]
        case unreachable:
            assert_never(unreachable)
    return [{scheme: [] for scheme in schemes} for schemes in alternatives]


def _webhook(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _response("Stored", "application/json", "Accepted"),
            **{
                status: _response(description, "application/problem+json", "Problem")
                for status, description in _REFUSALS.items()
            },
        },
    }


def _operation_of(summary: str, answers: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "summary": summary,
        "responses": {
            status: {"description": description, "content": content}
            for status, description in answers.items()
        },
    }


def _response(description: str, content_type: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {content_type: {"schema": {"$ref": _REF.format(model=schema)}}},
    }
