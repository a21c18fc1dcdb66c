"""Refusals, doctor and the audit trail as pages: what others wrote is text, and each state has a page."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.console import application_with, browser, sign_in
from worker.config.check import error, unchecked
from worker.config.console_accounts import Role
from worker.console.contract import Console, Parameters, Screen
from worker.console.refusals import Count, MarketplaceRefusals, Refusals
from worker.console.rendering import Renderer
from worker.console.screens.audit_trail import AuditTrail, Filters, RecordView
from worker.console.screens.doctor import Doctor
from worker.console.screens.refusals import RefusalsScreen, UnhandledType

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'{{7*7}}\u202e\x00"


def _trail(text: str) -> AuditTrail:
    records = [RecordView(NOW, text, text, text, text, None)]
    return AuditTrail(Filters(text, text, text, text, text), "who=x", records, "1-letter-1", False, None)


def _doctor(text: str) -> Doctor:
    findings = (error("x", text, f"run `{text}`"), unchecked(text, text, text))
    return Doctor(NOW, 1.5, 60.0, {"error": 1, "warning": 0, "unchecked": 1, "ok": 0}, findings)


def _refusals(text: str) -> RefusalsScreen:
    count = Count(text, text, 2, 1, 0.5)
    marketplaces = (MarketplaceRefusals(text, 3, 2, (count,), (count,)),)
    unhandled = (UnhandledType(text, text, 1, NOW, NOW, None),)
    return RefusalsScreen(Refusals(NOW, NOW, (text,), (text,), marketplaces, (count,)), unhandled, 2, None)


@pytest.mark.parametrize(
    ("template", "view"),
    [
        ("audit_trail.html", _trail(HOSTILE)),
        ("doctor.html", _doctor(HOSTILE)),
        ("refusals.html", _refusals(HOSTILE)),
    ],
)
async def test_hostile_text_is_inert(template: str, view: object) -> None:
    async def made(_: Console, __: Parameters) -> object:
        return view

    is_live = template == "refusals.html"
    app = application_with(screens=(Screen("/overview", Role.READER, template, made, is_live=is_live),))
    async with browser(app) as client:
        await sign_in(client)
        page = (await client.get("/overview")).text

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{7*7}}" in page
    assert "\u202e" not in page
    assert "\x00" not in page
    assert " style=" not in page


def _region(view: Any) -> str:
    return Renderer("").region("refusals.html", {"view": view, "roles": frozenset[Role]()})


def test_the_region_of_refusals_is_rendered_alone_in_each_state() -> None:
    unknown = RefusalsScreen(Refusals(NOW, None, (), ("a:1: x",), None, None), None, 0, "starting")
    nothing = RefusalsScreen(
        Refusals(NOW, NOW, ("a",), (), (MarketplaceRefusals("ovoko", 0, 0, (), ()),), ()), (), 0, None
    )

    assert "No ingest answers, so refusals are unknown." in _region(unknown)
    assert "The database cannot be read: starting" in _region(unknown)
    assert _region(nothing).count("Nothing was refused.") == 2
    assert "50.0 %" in _region(_refusals("x"))


async def test_commands_in_a_remedy_are_code() -> None:
    async def made(_: Console, __: Parameters) -> object:
        return _doctor("stockhook topology")

    async with browser(
        application_with(screens=(Screen("/overview", Role.READER, "doctor.html", made),))
    ) as client:
        await sign_in(client)
        page = (await client.get("/overview")).text

    assert "run <code>stockhook topology</code>" in page
