"""The page of the AsyncAPI documents. It needs no services."""

import json
from html import unescape

import pytest

from tests.support.console import application_with, browser, console_settings, sign_in
from worker.console.screens.asyncapi import shown
from worker.tools.asyncapi.documents import DOCUMENTS


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_the_page_shows_each_channel_message_schema_and_example(name: str) -> None:
    document = DOCUMENTS[name](console_settings())
    async with browser(application_with()) as client:
        await sign_in(client)
        page = await client.get("/asyncapi", params={"document": name})

    ids = [
        *(f"channel-{channel}" for channel in document["channels"]),
        *(f"message-{message}" for message in document["components"]["messages"]),
        *(f"schema-{schema}" for schema in document["components"]["schemas"]),
    ]
    text = unescape(page.text)
    assert page.status_code == 200
    assert [one for one in ids if page.text.count(f'id="{one}"') != 1] == []
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            assert f'"{next(iter(example["headers"]))}": ' in text
    for argument in ("x-message-ttl=7000", "x-queue-type=quorum", "x-single-active-consumer=true"):
        assert (argument in text) == (name == "topology")


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_each_name_in_the_page_leads_to_a_part_of_it(name: str) -> None:
    view = shown(name, console_settings())
    messages = {message.name for message in view.messages}
    schemas = {schema.name for schema in view.schemas}

    assert {message for channel in view.channels for message in channel.messages} <= messages
    assert {one for message in view.messages for one in (message.headers, message.payload) if one} <= schemas
    named = {one for schema in view.schemas for field in schema.fields for one in field.schemas}
    assert named <= schemas
    assert named


def test_a_schema_is_a_table_of_its_fields() -> None:
    view = shown("changes", console_settings())
    (sold,) = (schema for schema in view.schemas if schema.name == "part.sold")
    fields = {field.name: field for field in sold.fields}

    assert fields["type"].type == '"stockhook.part.sold"'
    assert fields["time"].rules == "format date-time"
    assert (fields["data.before"].type, fields["data.before"].schemas) == (
        "PartState or null",
        ("PartState",),
    )
    assert [field.name for field in sold.fields if not field.is_required] == ["traceparent"]


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_download_is_the_document(name: str) -> None:
    async with browser(application_with()) as client:
        refused = await client.get(f"/asyncapi/{name}.json")
        await sign_in(client, "rita")
        answer = await client.get(f"/asyncapi/{name}.json")

    assert refused.status_code == 401
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.content) == DOCUMENTS[name](console_settings())


@pytest.mark.parametrize("name", ["orders", "\x00", "x" * 5000, "<script>"])
async def test_an_unknown_document_is_not_there(name: str) -> None:
    async with browser(application_with()) as client:
        await sign_in(client)
        answer = await client.get("/asyncapi", params={"document": name})

    assert answer.status_code == 404
    assert "only changes and topology" in answer.text
    assert "<script>" not in answer.text


async def test_every_page_leads_to_the_documents_below_the_base_path() -> None:
    async with browser(application_with({"console_base_path": "/stockhook"})) as client:
        await sign_in(client)
        page = await client.get("/stockhook/asyncapi")

    assert 'href="/stockhook/asyncapi"' in page.text
    assert 'href="/stockhook/asyncapi/changes.json"' in page.text
