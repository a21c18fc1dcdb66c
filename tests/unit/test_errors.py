"""Summaries and fingerprints of exceptions."""

import ssl

import asyncpg

from worker.observability.errors import fingerprint, refused_certificate, safe_summary
from worker.pipeline.retry_schedule import after_failure


def raised() -> Exception:
    try:
        after_failure(1, None)  # type: ignore[arg-type]  # so that it raises inside our own code
    except TypeError as error:
        return error
    raise AssertionError("it should have raised")


def test_class_and_place_are_named() -> None:
    assert safe_summary(raised()) == "TypeError in worker/pipeline/retry_schedule.py:after_failure"


def test_a_database_error_is_named_by_its_sqlstate_and_quotes_nothing() -> None:
    error = asyncpg.UniqueViolationError("Key (email)=(customer@example.com) already exists")

    assert safe_summary(error) == "UniqueViolationError [23505]"


def test_failures_of_one_kind_have_one_fingerprint() -> None:
    assert fingerprint(ValueError("a")) == fingerprint(ValueError("b")) != fingerprint(KeyError("a"))


def test_a_refused_certificate_is_recognized_behind_other_errors() -> None:
    refusal = ssl.SSLCertVerificationError()
    refusal.verify_message = "self-signed certificate"
    error = ConnectionError()
    error.__cause__ = OSError()
    error.__cause__.__context__ = refusal

    assert refused_certificate(error) == "its certificate is not accepted: self-signed certificate"


def test_errors_that_led_to_each_other_are_looked_through_once() -> None:
    first, second = ConnectionError(), OSError()
    first.__cause__, second.__context__ = second, first

    assert refused_certificate(first) is None
