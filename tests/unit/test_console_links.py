"""What pages of the console lead to."""

import pytest
from pydantic import ValidationError

from worker.config.settings import Settings
from worker.console.rendering import Renderer, job_in


@pytest.mark.parametrize(
    ("reason", "job"),
    [
        ("job 12: the shelf is open again", "12"),
        ("job 12", "12"),
        ("job 12 was mine", None),
        ("a job 12: no", None),
        (None, None),
    ],
)
def test_a_reason_names_its_job(reason: str | None, job: str | None) -> None:
    assert job_in(reason) == job


def test_parts_of_pages_lead_below_the_base_path_and_are_escaped() -> None:
    renderer = Renderer("/tools")
    parts = renderer._environment.globals["parts"]

    assert 'href="/tools/families/orders"' in parts.origin("orders")
    assert 'href="/tools/changes#subscriber-a%22b"' in parts.origin('webhook.a"b')
    assert "href" not in parts.origin("quarantine")
    assert parts.origin("<b>").strip() == "&lt;b&gt;"
    assert 'href="/tools/search?q=a%2Fb"' in parts.subject("a/b")
    assert parts.audit_reason("job 3: <b>").strip() == '<a href="/tools/jobs/3">job 3</a>: &lt;b&gt;'


def test_pages_elsewhere_are_links_only_where_a_setting_has_their_address() -> None:
    known = Renderer("", {"gateway_event": "https://gateway.example/{gateway_event}", "trace_id": None})

    assert known.evidence_address("gateway_event", "evt/1?x") == "https://gateway.example/evt%2F1%3Fx"
    assert known.evidence_address("gateway_attempt", "3") == ""
    assert known.evidence_address("trace_id", "0" * 32) == ""
    assert Renderer("").elsewhere("queue", "stockhook.orders") == ""


@pytest.mark.parametrize(
    "template",
    ["https://rabbitmq.example/", "javascript:{queue}", "https://anna:secret@rabbitmq.example/{queue}"],
)
def test_the_address_of_a_page_elsewhere_is_checked(template: str) -> None:
    with pytest.raises(ValidationError):
        Settings(console_queue_url=template)
