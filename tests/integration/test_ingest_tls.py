"""TLS at the ingest on real sockets, with real certificates and their replacement."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.authority import Authority, make_authority
from tests.support.http_shapes import CHUNKED, EVENT, LAST_CHUNK, chunk, head
from tests.support.ingest_server import SECRET, WHOLE, Server, client, server
from tests.support.stack import until
from worker.ingest.connection_limits import ConnectionLimits
from worker.ingest.http_connection import Limits
from worker.ingest.tls import BadCertificate, Certificates, Files, load
from worker.observability import metrics

LOOK_SECONDS = 0.1


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "other")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    """The files that the ingest is configured with. Tests change them while it runs."""
    files = Files(tmp_path / "tls.crt", tmp_path / "tls.key")
    install(authority, files)
    return files


def install(authority: Authority, files: Files) -> None:
    shutil.copy(authority.certificate, files.certificate)
    shutil.copy(authority.key, files.key)


@asynccontextmanager
async def ingest(certificates: Certificates, limits: Limits | None = None) -> AsyncIterator[Server]:
    watching = asyncio.create_task(certificates.watch())
    try:
        async with server(limits, certificates=certificates) as running:
            yield running
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def trusting(authority: Authority, shown: Authority | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


def failed_handshakes() -> float:
    name = "stockhook_http_connections_refused_total"
    return metrics.INGEST.get_sample_value(name, {"reason": "handshake"}) or 0


async def test_webhooks_arrive_over_tls_in_http_1(authority: Authority, files: Files) -> None:
    async with (
        ingest(Certificates(files)) as running,
        client(running.port, context=trusting(authority)) as sender,
    ):
        assert await sender.is_served()
        assert await sender.is_served()
        encrypted = sender.writer.get_extra_info("ssl_object")
        assert encrypted.version() in ("TLSv1.2", "TLSv1.3")
        assert encrypted.selected_alpn_protocol() == "http/1.1"
    assert [message.body for message in running.stored.messages] == [EVENT] * 2


async def test_a_large_body_arrives_whole_and_an_early_end_is_no_body(
    authority: Authority, files: Files
) -> None:
    body = b" " * 200_000 + EVENT
    context = trusting(authority)
    async with ingest(Certificates(files)) as running:
        async with client(running.port, context=context) as sender:
            sender.writer.write(head(SECRET, CHUNKED) + chunk(body) + LAST_CHUNK)
            assert await sender.status() == 200
        async with client(running.port, context=context) as leaving:
            leaving.writer.write(head(SECRET, f"Content-Length: {len(EVENT) + 1}") + EVENT)
            await leaving.writer.drain()
        async with client(running.port, context=context) as sender:
            assert await sender.is_served()
    assert [len(message.body) for message in running.stored.messages] == [len(body), len(EVENT)]


async def test_a_refusal_reaches_a_sender_that_is_still_sending(authority: Authority, files: Files) -> None:
    async with (
        ingest(Certificates(files)) as running,
        client(running.port, context=trusting(authority)) as sender,
    ):
        sender.writer.write(head("wrong", "Content-Length: 5000000") + bytes(1_000_000))

        assert await sender.status() == 401


async def test_a_renewed_certificate_is_used_and_no_connection_ends(
    authority: Authority, other: Authority, files: Files
) -> None:
    async with (
        ingest(Certificates(files, LOOK_SECONDS)) as running,
        client(running.port, context=trusting(authority)) as before,
    ):
        assert await before.is_served()
        running.stored.may_store.clear()
        before.writer.write(WHOLE)
        install(other, files)

        await until(lambda: _is_shown(other, running), "new connections are shown the new certificate")
        running.stored.may_store.set()
        assert await before.status() == 200
        assert await before.is_served()


async def test_on_request_the_files_are_read_at_once(
    authority: Authority, other: Authority, files: Files
) -> None:
    """As on SIGHUP; the next regular check is much later."""
    certificates = Certificates(files, check_seconds=3600)
    async with ingest(certificates) as running:
        async with client(running.port, context=trusting(authority)) as sender:
            assert await sender.is_served()
        install(other, files)
        certificates.request_reload()
        await until(lambda: _is_shown(other, running), "new connections are shown the new certificate")


async def _is_shown(authority: Authority, running: Server) -> bool:
    try:
        async with client(running.port, context=trusting(authority)) as sender:
            sender.writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            return await sender.status() == 200
    except ssl.SSLCertVerificationError:
        return False


@pytest.mark.parametrize(
    "fault", ["empty", "no certificate", "another key", "encrypted key", "gone", "folder"]
)
async def test_a_certificate_that_cannot_be_used_changes_nothing_and_the_next_good_one_is_taken(
    fault: str, authority: Authority, other: Authority, files: Files
) -> None:
    certificates = Certificates(files, LOOK_SECONDS)
    async with ingest(certificates) as running:
        break_files(fault, files, other)
        await until(lambda: _has_trouble(certificates), "the fault is noticed")

        assert certificates.trouble is not None
        assert "STOCKHOOK_INGEST_" in certificates.trouble
        assert certificates.describe()["reload"] == certificates.trouble
        async with client(running.port, context=trusting(authority)) as sender:
            assert await sender.is_served()
        with suppress(IsADirectoryError, FileNotFoundError):
            files.certificate.unlink()
        if files.certificate.is_dir():
            files.certificate.rmdir()
        install(other, files)
        await until(lambda: _has_no_trouble(certificates), "the good one is taken")
        async with client(running.port, context=trusting(other)) as sender:
            assert await sender.is_served()


def break_files(fault: str, files: Files, other: Authority) -> None:
    match fault:
        case "empty":
            files.certificate.write_bytes(b"")
        case "no certificate":
            files.certificate.write_text("no certificate")
        case "another key":
            shutil.copy(other.key, files.key)
        case "encrypted key":
            files.key.write_text(ENCRYPTED_KEY)
        case "gone":
            files.key.unlink()
        case "folder":
            files.certificate.unlink()
            files.certificate.mkdir()


def _encrypted_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    ).decode()


ENCRYPTED_KEY = _encrypted_key()


async def _has_trouble(certificates: Certificates) -> bool:
    return certificates.trouble is not None


async def _has_no_trouble(certificates: Certificates) -> bool:
    return certificates.trouble is None


@pytest.mark.parametrize("name", ["key", "client_ca"])
def test_a_file_that_is_removed_while_it_is_loaded_is_a_bad_certificate(
    name: str, authority: Authority, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = replace(files, client_ca=authority.ca)
    path = getattr(files, name)

    def check_and_remove(_setting: str, checked: Path) -> None:
        if checked == path:
            path.unlink()

    monkeypatch.setattr("worker.ingest.tls._check_readable", check_and_remove)

    with pytest.raises(BadCertificate, match=r"cannot be read: No such file or directory"):
        load(files)


@pytest.mark.parametrize("fault", ["empty", "another key", "encrypted key", "gone"])
def test_a_certificate_that_cannot_be_used_at_the_start_is_one_sentence(
    fault: str, other: Authority, files: Files
) -> None:
    break_files(fault, files, other)
    with pytest.raises(BadCertificate, match=r"^STOCKHOOK_INGEST_\w+_FILE: /\S+ [^\n]+$"):
        Certificates(files)


async def test_only_a_client_with_a_certificate_of_the_ca_is_accepted(
    authority: Authority, other: Authority, files: Files
) -> None:
    required = Files(files.certificate, files.key, authority.ca)
    before = failed_handshakes()
    limits = Limits(60, stranger_idle_seconds=0.2, header_seconds=0.2)
    async with ingest(Certificates(required), limits) as running:
        async with client(running.port, context=trusting(authority, shown=authority)) as sender:
            # It is authenticated, so it may be idle for longer.
            await asyncio.sleep(0.8)
            assert await sender.is_served()
        for shown in (None, other):
            assert await _is_let_in(running, trusting(authority, shown)) is False
    assert failed_handshakes() - before == 2
    assert len(running.stored.messages) == 1


async def _is_let_in(running: Server, context: ssl.SSLContext) -> bool:
    """In TLS 1.3, a sender notices a refused certificate when it reads."""
    try:
        async with client(running.port, context=context) as sender:
            sender.writer.write(WHOLE)
            return await sender.reader.read(1) != b""
    except (ssl.SSLError, ConnectionError):
        return False


async def test_plain_http_and_bytes_that_are_no_handshake_end(files: Files) -> None:
    async with ingest(Certificates(files)) as running:
        before = failed_handshakes()
        async with client(running.port) as plain:
            plain.writer.write(WHOLE)
            with suppress(ConnectionError):
                # A TLS alert, or nothing.
                assert b"HTTP" not in await asyncio.wait_for(plain.reader.read(), 20)
        await until(lambda: _has_failed(before + 1), "it is counted")
    assert running.stored.messages == []


async def _has_failed(number: float) -> bool:
    return failed_handshakes() >= number


async def test_a_handshake_that_is_never_finished_ends_and_counts_among_strangers(
    authority: Authority, files: Files
) -> None:
    limits = Limits(60, connections=ConnectionLimits(total=16, per_address=2))
    async with ingest(Certificates(files), limits) as running, client(running.port) as oldest:
        async with client(running.port), client(running.port, context=trusting(authority)) as sender:
            assert await oldest.is_closed()
            assert await sender.is_served()
        async with client(running.port) as silent:
            # A handshake record that is longer than the sent bytes.
            silent.writer.write(b"\x16\x03\x01\x02\x00\x01")
            async with asyncio.timeout(60):
                assert await silent.is_closed()


async def test_at_its_end_requests_over_tls_are_answered_and_handshakes_end(
    authority: Authority, files: Files
) -> None:
    running = ingest(Certificates(files))
    entered = await running.__aenter__()
    async with client(entered.port, context=trusting(authority)) as sender, client(entered.port) as half_open:
        entered.stored.may_store.clear()
        sender.writer.write(WHOLE)
        await until(lambda: _is_storing(entered), "the request is in flight")
        ending = asyncio.create_task(running.__aexit__(None, None, None))

        assert await half_open.is_closed()
        entered.stored.may_store.set()
        assert await sender.status() == 200
        await asyncio.wait_for(ending, 20)


async def _is_storing(running: Server) -> bool:
    return running.stored.waiting > 0
