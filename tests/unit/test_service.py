"""The ingest's answers, without a server and without a broker."""

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import structlog.testing
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from worker.amqp.channel import Message
from worker.config.settings import Settings
from worker.ingest import body_reader, service
from worker.ingest.event_sink import NotStored
from worker.ingest.exchange import BodyIncomplete, Request, Response
from worker.ingest.service import LARGE_BODY, Ingest
from worker.observability import metrics

SECRET = "ovoko-secret"
TOKEN = "buyback-token"
BODY = b'{"event_type":"order.created","timestamp":"2023-01-12T14:17:20Z","event_data":{"order_id":"1"}}'


@dataclass
class Stored:
    """Replaces the storage: records messages, or fails."""

    failure: Exception | None = None
    messages: list[Message] = field(default_factory=list)

    async def store(self, message: Message, family: str | None) -> None:
        if self.failure is not None:
            raise self.failure
        self.messages.append(message)

    async def check(self) -> str | None:
        return None

    def details(self) -> dict[str, object]:
        return {"publishing": True, "spool": None}


def settings(**changes: object) -> Settings:
    values: dict[str, object] = {
        "ovoko_secrets": SECRET,
        "buyback_tokens": TOKEN,
        "sealing_keys": Fernet.generate_key().decode(),
        "body_limit": 2048,
        "body_timeout": 0.2,
        **changes,
    }
    return Settings(**values)  # type: ignore[arg-type]  # strings, as the environment has them


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def stalled() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(30)


async def hung_up() -> AsyncIterator[bytes]:
    yield b"{"
    raise BodyIncomplete


async def answer(
    body: AsyncIterator[bytes] | bytes = BODY,
    stored: Stored | None = None,
    method: str = "POST",
    path: str = "/webhooks/ovoko",
    configured: Settings | None = None,
    **headers: str,
) -> Response:
    given = {"x-webhook-secret": SECRET, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if "content-length" not in given:
        given["transfer-encoding"] = "chunked"
    request = Request(method, path, given, chunks(body) if isinstance(body, bytes) else body)
    ingest = Ingest(configured or settings(), stored or Stored())
    return await ingest.handle(request)


async def test_an_event_is_answered_once_it_is_stored() -> None:
    stored = Stored()
    response = await answer(stored=stored)
    document = json.loads(response.body)

    assert (response.status, document["status"]) == (200, "accepted")
    assert [message.headers["x-event-id"] for message in stored.messages] == [document["event_id"]]


async def test_an_event_that_cannot_be_stored_is_refused() -> None:
    response = await answer(stored=Stored(NotStored("no room")))

    assert response.status == 503
    assert ("retry-after", "7") in response.headers


async def test_our_own_fault_is_no_reason_to_forget_an_event() -> None:
    response = await answer(stored=Stored(ZeroDivisionError()))

    assert response.status == 500


def received(provider: str, result: str) -> float:
    labels = {"provider": provider, "result": result}
    return metrics.INGEST.get_sample_value("stockhook_received_total", labels) or 0


@pytest.mark.parametrize(
    ("patterns", "result"),
    [
        ("", "unhandled"),
        ("ovoko.offer.*", "unhandled"),
        ("buyback.part.*", "unhandled"),
        ("ovoko.part.price", "unhandled"),
        ("ovoko.offer.*, ovoko.part.price.*", "ignored"),
        ("ovoko.*.price.changed", "ignored"),
        ("ovoko.part.price.changed", "ignored"),
    ],
)
async def test_a_type_that_no_family_takes_is_stored_unless_it_is_ignored(patterns: str, result: str) -> None:
    stored = Stored()
    before = received("ovoko", result), received("ovoko", "quarantined")
    body = BODY.replace(b"order.created", b"part.price.changed")
    response = await answer(body, stored, configured=settings(ignored_types=patterns))

    assert (response.status, json.loads(response.body)["status"]) == (200, "accepted")
    assert len(stored.messages) == (0 if result == "ignored" else 1)
    assert received("ovoko", result) == before[0] + 1
    assert received("ovoko", "quarantined") == before[1]


async def test_a_malformed_event_is_never_ignored() -> None:
    stored = Stored()
    configured = settings(ignored_types="ovoko.part.price.*")
    for body in (b"part.price.changed", b'{"event_type": 5}', BODY):
        await answer(body, stored, configured=configured)

    assert len(stored.messages) == 3


@pytest.mark.parametrize("secret", ["", "wrong", SECRET + "x", SECRET[:-1], "ü", "\udcff", chr(0xD800)])
async def test_a_wrong_secret_is_refused_and_nothing_is_published(secret: str) -> None:
    stored = Stored()
    response = await answer(stored=stored, x_webhook_secret=secret)

    assert response.status == 401
    assert stored.messages == []


FOREIGN_TEXT = st.one_of(
    st.text(st.characters(), max_size=20),
    st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010, categories=None), max_size=5),
    st.sampled_from(["gzip", "br", "9" * 5000, "-1", "1_0", "²", "\ud800", "\udcff", "../..", "%00", "//"]),
)
TOKENS = st.one_of(
    FOREIGN_TEXT,
    st.integers(),
    st.lists(FOREIGN_TEXT, max_size=2),
    st.dictionaries(FOREIGN_TEXT, FOREIGN_TEXT, max_size=2),
    st.none(),
    st.booleans(),
)
FOREIGN_BODY = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda token: json.dumps({"type": "x", "token": token}).encode(), TOKENS),
    st.builds(
        lambda token, end: b'{"token": %s, %s' % (json.dumps(token).encode(), end),
        TOKENS,
        st.binary(max_size=9),
    ),
    st.builds(lambda text: b'{"token": "%s"}' % text.encode(errors="surrogatepass"), FOREIGN_TEXT),
    st.sampled_from(
        [
            b"",
            b"[" * 2000,
            b'{"token":' * 200,
            b'{"token": 1e999999999}',
            b'{"token": 1e99999999999999999999}',
            b'{"token": ' + b"1" * 2000 + b"}",
            b'{"token": "' + b"x" * 2000 + b'"}',
            b'{"token": "x", ' + b'"a": {' * 250,
            b"\xff\xfe{\x00",
            gzip.compress(b'{"token": "x"}'),
            gzip.compress(b"x" * 5000),
        ]
    ),
)
PATHS = ("/webhooks/ovoko", "/webhooks/buyback", "/webhooks", "/webhooks/x", "//webhooks/ovoko/")
HEADER_NAMES = st.sampled_from(
    ["x-webhook-secret", "content-length", "content-encoding", "content-type", "transfer-encoding"]
)


def test_a_request_without_a_secret_never_gets_a_5xx() -> None:
    stored = Stored()
    ingest = Ingest(settings(), stored)

    @given(
        method=st.one_of(st.sampled_from(["POST", "GET", "HEAD", "OPTIONS", "PUT"]), FOREIGN_TEXT),
        path=st.one_of(st.sampled_from(PATHS), FOREIGN_TEXT.map("/webhooks/".__add__), FOREIGN_TEXT),
        headers=st.dictionaries(HEADER_NAMES, FOREIGN_TEXT, max_size=3),
        body=FOREIGN_BODY,
    )
    def check(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        response = runner.run(ingest.handle(Request(method, path, headers, chunks(body))))

        assert response.status < 500

    with asyncio.Runner() as runner:
        check()
    assert stored.messages == []


async def test_a_wrong_secret_is_refused_before_the_body_is_read() -> None:
    assert (await answer(stalled(), x_webhook_secret="wrong")).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_length": "2049"}, 413),
        ({"content_length": "9" * 5000}, 413),
        ({"content_length": "5000"}, 413),
        ({"content_length": "500"}, 408),
        ({"content_length": "²"}, 400),
        ({"content_length": "-1"}, 400),
        ({"content_length": ""}, 400),
    ],
)
async def test_lengths_and_encodings_are_checked(headers: dict[str, str], status: int) -> None:
    assert (await answer(**headers)).status == status


@pytest.mark.parametrize(
    ("provider", "headers", "status"),
    [
        ("ovoko", {}, 401),
        ("ovoko", {"x-webhook-secret": SECRET}, 411),
        ("buyback", {}, 411),
        ("ovoko", {"x-webhook-secret": SECRET, "content-length": "0"}, 200),
        ("ovoko", {"x-webhook-secret": SECRET, "transfer-encoding": "chunked"}, 200),
    ],
)
async def test_a_webhook_of_undeclared_length_is_refused_and_counted(
    provider: str, headers: dict[str, str], status: int
) -> None:
    """Its headers declare no body, so its event would be lost if it were accepted."""
    stored, before = Stored(), received(provider, str(status))
    ingest = Ingest(settings(), stored)
    response = await ingest.handle(Request("POST", f"/webhooks/{provider}", headers, chunks()))

    assert response.status == status
    assert len(stored.messages) == (status == 200)
    assert (("connection", "close") in response.headers) == (status == 411)
    assert received(provider, str(status)) == before + (status != 200)


async def test_a_body_over_the_cap_is_refused_while_it_arrives() -> None:
    assert (await answer(chunks(b"x" * 2000, b"x" * 49))).status == 413


async def test_reading_a_stalled_body_ends() -> None:
    assert (await answer(stalled())).status == 408


async def test_a_sender_that_hangs_up_has_sent_nothing() -> None:
    stored = Stored()

    assert (await answer(hung_up(), stored)).status == 408
    assert stored.messages == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/webhooks/ovoko", 405),
        ("TRACE", "/webhooks/buyback", 405),
        ("POST", "/webhooks/ovoko/", 200),
        ("POST", "//webhooks//ovoko//", 200),
        ("POST", "/webhooks/ovoko/x", 404),
        ("POST", "/webhook/ovoko", 404),
        ("POST", "/livez", 405),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/openapi.json", 200),
        ("POST", "/webhooks", 404),
        ("POST", "/webhooks/ebay", 404),
    ],
)
async def test_paths_and_methods(method: str, path: str, status: int) -> None:
    response = await answer(method=method, path=path)

    assert response.status == status
    if status == 405:
        assert "allow" in dict(response.headers)
    if status >= 400:
        assert response.content_type == "application/problem+json"
        assert json.loads(response.body)["status"] == status


@pytest.mark.parametrize("path", ["/webhooks/ovoko", "/webhooks/buyback", "/webhooks/ovoko/"])
@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)])
async def test_a_console_may_look_at_an_address_without_a_secret(path: str, method: str, status: int) -> None:
    stored = Stored()
    response = await answer(stalled(), stored, method, path, x_webhook_secret="")

    assert (response.status, response.body, stored.messages) == (status, b"", [])
    assert dict(response.headers).get("allow") == (
        "GET, HEAD, OPTIONS, POST" if method == "OPTIONS" else None
    )


async def test_webhooks_to_a_wrong_address_are_counted_and_now_and_then_logged() -> None:
    def unknown() -> float:
        return metrics.INGEST.get_sample_value("stockhook_unknown_paths_total") or 0

    ingest, before = Ingest(settings(), Stored()), unknown()
    with structlog.testing.capture_logs() as lines:
        for path in ("/webhooks/ebay", "/webhooks", "/webhooks/ovoko/\x1b[2J\ud800", "/other", "/livez"):
            await ingest.handle(Request("POST", path, {}, chunks()))

    assert unknown() - before == 3
    assert [(line["event"], line["path"]) for line in lines] == [("path.unknown", "/webhooks/ebay")]


async def test_a_path_in_the_log_is_inert() -> None:
    with structlog.testing.capture_logs() as lines:
        await answer(path="/webhooks/\x1b[2J\ud800" + "x" * 5000)

    (line,) = lines
    assert line["path"].startswith("/webhooks/\\x1b[2J\\ud800xx")
    assert len(line["path"]) == 200


async def test_a_refusal_is_logged_now_and_then_with_its_sender() -> None:
    ingest = Ingest(settings(), Stored())
    headers = {"content-length": "2", "x-request-id": "request-1\x1b" + "x" * 5000}
    requests = [
        Request("POST", "/webhooks/ovoko", headers, chunks(b"{}"), client="192.0.2.7") for _ in range(3)
    ]
    with structlog.testing.capture_logs() as lines:
        for request in requests:
            await ingest.handle(request)
        await ingest.handle(Request("POST", "/webhooks/buyback", {}, chunks(b"{}"), client="192.0.2.8"))

    assert [(line["event"], line["provider"], line["result"], line["client"]) for line in lines] == [
        ("request.refused", "ovoko", "401", "192.0.2.7"),
        ("request.refused", "buyback", "411", "192.0.2.8"),
    ]
    assert lines[0]["request_id"].startswith("request-1\\x1bxxx")
    assert len(lines[0]["request_id"]) == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/shop/hooks/webhooks/ovoko", 200),
        ("/shop//hooks/webhooks/ovoko/", 200),
        ("/webhooks/ovoko", 404),
        ("/shop/webhooks/ovoko", 404),
        ("/shop/hookswebhooks/ovoko", 404),
        ("/shop/hooks/shop/hooks/webhooks/ovoko", 404),
        ("/shop/hooks", 404),
    ],
)
async def test_with_a_prefix_webhooks_have_it_and_nothing_else_is_one(path: str, status: int) -> None:
    stored = Stored()
    response = await answer(path=path, stored=stored, configured=settings(ingest_path_prefix="/shop/hooks"))

    assert response.status == status
    assert len(stored.messages) == int(status == 200)
    if status == 404:
        assert b"/shop/hooks/webhooks/ovoko" in response.body


@pytest.mark.parametrize("prefix", ["", "/shop"])
async def test_probes_are_answered_with_and_without_the_prefix(prefix: str) -> None:
    configured = settings(ingest_path_prefix="/shop")
    for path in ("/livez", "/readyz", "/openapi.json"):
        assert (await answer(method="GET", path=f"{prefix}{path}", configured=configured)).status == 200
    document = json.loads((await answer(method="GET", path="/openapi.json", configured=configured)).body)
    assert document["servers"] == [{"url": "/shop"}]


async def test_a_sender_is_authenticated_by_headers_before_the_body_or_by_the_body() -> None:
    seen: list[str] = []
    ingest = Ingest(settings(), Stored())

    async def body(text: bytes) -> AsyncIterator[bytes]:
        seen.append("body")
        yield text

    async def receive(path: str, text: bytes, **headers: str) -> int:
        given = {
            "transfer-encoding": "chunked",
            **{name.replace("_", "-"): headers[name] for name in headers},
        }
        request = Request("POST", path, given, body(text), authenticated=lambda: seen.append("authenticated"))
        return (await ingest.handle(request)).status

    assert await receive("/webhooks/ovoko", BODY, x_webhook_secret=SECRET) == 200
    assert seen[:2] == ["authenticated", "body"]
    seen.clear()
    assert await receive("/webhooks/buyback", b'{"type": "x", "token": "%s"}' % TOKEN.encode()) == 200
    assert seen == ["body", "authenticated"]
    seen.clear()
    assert await receive("/webhooks/buyback", b'{"type": "x", "token": "wrong"}') == 401
    assert await receive("/webhooks/ovoko", BODY, x_webhook_secret="wrong") == 401
    assert await receive("/webhooks/buyback", b"{") == 400
    assert "authenticated" not in seen


async def test_a_body_of_a_stranger_must_keep_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minimum rate applies after a grace time. A sender with a valid secret has the whole time."""
    monkeypatch.setattr(body_reader, "UNAUTHENTICATED_FIRST_SECONDS", 0.3)
    monkeypatch.setattr(body_reader, "UNAUTHENTICATED_BYTES_PER_SECOND", 1000)
    configured = settings(body_timeout=20, body_limit=100_000)

    async def trickling(bytes_at_a_time: int) -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b" " * bytes_at_a_time
            await asyncio.sleep(0.2)
        yield BODY.replace(b"{", b'{"token": "%s", ' % TOKEN.encode(), 1)

    async def receive(bytes_at_a_time: int, path: str) -> int:
        return (await answer(trickling(bytes_at_a_time), path=path, configured=configured)).status

    statuses = await asyncio.gather(
        receive(1, "/webhooks/buyback"), receive(5000, "/webhooks/buyback"), receive(1, "/webhooks/ovoko")
    )

    assert statuses == [408, 200, 200]


async def test_beyond_the_limit_of_memory_the_largest_unauthenticated_body_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.BodyMemory, "for_bodies_of", lambda _limit: service.BodyMemory(3_000))
    ingest = Ingest(settings(body_timeout=20), Stored())
    may_end = asyncio.Event()

    async def part(size: int) -> AsyncIterator[bytes]:
        yield b" " * size
        await may_end.wait()
        yield b'{"type": "x", "token": "%s"}' % TOKEN.encode()

    async def receive(path: str, size: int) -> Response:
        headers = {"transfer-encoding": "chunked", "x-webhook-secret": SECRET}
        return await ingest.handle(Request("POST", path, headers, part(size)))

    before = received("buyback", "busy")
    large = asyncio.create_task(receive("/webhooks/buyback", 2_000))
    await asyncio.sleep(0)
    others = [
        asyncio.create_task(receive(path, size))
        for path, size in (("/webhooks/buyback", 900), ("/webhooks/ovoko", 1_500))
    ]
    refused = await large
    may_end.set()

    assert refused.status == 503
    assert received("buyback", "busy") - before == 1
    assert ("retry-after", "7") in refused.headers
    assert ("connection", "close") in refused.headers
    assert [(await other).status for other in others] == [200, 200]
    assert (await receive("/webhooks/buyback", 2_000)).status == 200


RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
RAW_DEFLATED = RAW.compress(BODY) + RAW.flush()
gzipped = partial(gzip.compress, mtime=0)
GZIPPED = gzipped(BODY)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("identity", BODY),
        ("", BODY),
        ("none", BODY),
        ("utf-8", BODY),
        ("UTF8", BODY),
        ("aws-chunked", BODY),
        ("br", BODY),
        ("gzip", BODY),
        ("deflate", BODY),
        ("gzip", GZIPPED),
        ("X-GZIP", GZIPPED),
        (" gzip , identity", GZIPPED),
        ("gzip", gzipped(BODY[:20]) + gzipped(BODY[20:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", RAW_DEFLATED),
        ("deflate, gzip", gzipped(zlib.compress(BODY))),
    ],
)
async def test_a_body_is_stored_as_it_was_before_its_encoding(encoding: str, body: bytes) -> None:
    stored = Stored()
    response = await answer(body, stored, content_encoding=encoding)

    assert response.status == 200
    assert [message.body for message in stored.messages] == [BODY]


@pytest.mark.parametrize("encoding", ["identity", "", "none", "utf-8"])
async def test_an_unencoded_body_that_is_no_json_is_quarantined(encoding: str) -> None:
    stored = Stored()

    assert (await answer(b"not json", stored, content_encoding=encoding)).status == 200
    assert [message.routing_key for message in stored.messages] == ["quarantine.ovoko"]


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"not json", 415),
        ("gzip", b"not json", 415),
        ("gzip", b"", 415),
        ("gzip", GZIPPED[:-1], 415),
        ("gzip", GZIPPED + b"more", 415),
        ("deflate", GZIPPED, 415),
        ("gzip", gzipped(b"") * 20 + GZIPPED, 415),
        ("gzip, gzip, gzip, gzip", gzipped(gzipped(gzipped(GZIPPED))), 415),
        ("gzip", gzipped(b" " * 2049), 413),
        ("gzip", gzipped(b" " * 10_000_000, 1)[:2000], 413),
        ("gzip", gzipped(b" " * 2000) + gzipped(b" " * 2000), 413),
        ("gzip, gzip", gzipped(gzipped(b" " * 100_000)), 413),
    ],
)
async def test_a_body_that_cannot_be_decoded_within_the_limit_is_refused_and_counted(
    encoding: str, body: bytes, status: int
) -> None:
    def refused() -> float:
        labels = {"provider": "ovoko", "result": str(status)}
        return metrics.INGEST.get_sample_value("stockhook_received_total", labels) or 0

    stored, before = Stored(), refused()
    response = await answer(body, stored, content_encoding=encoding)

    assert response.status == status
    assert refused() - before == 1
    assert stored.messages == []


@pytest.mark.parametrize(("token", "status"), [(TOKEN, 200), ("wrong", 401)])
async def test_a_buyback_body_is_authenticated_once_it_is_decoded(token: str, status: int) -> None:
    stored = Stored()
    body = b'{"type":"OrderCreatedEvent","token":"%s","result":{}}' % token.encode()
    response = await answer(gzipped(body), stored, path="/webhooks/buyback", content_encoding="gzip")

    assert response.status == status
    assert len(stored.messages) == (status == 200)


@pytest.mark.parametrize(
    ("path", "changes", "missing"),
    [
        ("/webhooks/ovoko", {"ovoko_secrets": ""}, "STOCKHOOK_OVOKO_SECRETS"),
        ("/webhooks/buyback", {"buyback_tokens": ""}, "STOCKHOOK_BUYBACK_TOKENS"),
        ("/webhooks/buyback", {"sealing_keys": ""}, "STOCKHOOK_SEALING_KEYS"),
    ],
)
async def test_an_endpoint_that_lacks_a_setting_is_off_and_names_it(
    path: str, changes: dict[str, object], missing: str
) -> None:
    response = await answer(path=path, configured=settings(**changes))

    assert response.status == 404
    assert missing in json.loads(response.body)["detail"]


async def test_which_secret_was_used_is_counted() -> None:
    """The count shows when an old secret can be removed."""
    rotated = settings(
        ovoko_secrets=f"the-new-one-0123456789,{SECRET}", buyback_tokens=f"{TOKEN},the-old-one-x"
    )

    def used(provider: str, position: str) -> float:
        labels = {"provider": provider, "position": position}
        return metrics.INGEST.get_sample_value("stockhook_secret_used_total", labels) or 0

    before = [used("ovoko", "older"), used("ovoko", "newest"), used("buyback", "newest")]
    body = b'{"type":"OrderCreatedEvent","token":"%s","result":{}}' % TOKEN.encode()
    await answer(configured=rotated)
    await answer(configured=rotated, x_webhook_secret="wrong")
    await answer(body, path="/webhooks/buyback", configured=rotated)
    after = [used("ovoko", "older"), used("ovoko", "newest"), used("buyback", "newest")]

    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 0, 1]


@pytest.mark.parametrize("provider", ["ovoko", "buyback"])
async def test_other_requests_do_not_wait_for_the_work_on_a_large_body(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    accept = service.accept

    def noted(*arguments: object, **options: object) -> object:
        threads.append(threading.current_thread())
        return accept(*arguments, **options)

    monkeypatch.setattr(service, "accept", noted)
    for size in (10, LARGE_BODY):
        body = json.dumps({"token": TOKEN, "x": "x" * size}).encode()
        response = await answer(
            body, path=f"/webhooks/{provider}", configured=settings(body_limit=2 * LARGE_BODY)
        )
        assert response.status == 200

    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()
