"""Sessions of the console, the tokens of its forms, and the limit on attempts to sign in."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.config.console_accounts import Role
from worker.console.sessions import MOST_SESSIONS, Session, Sessions, User
from worker.console.throttle import BURST, MOST_KEYS, SECONDS_PER_ATTEMPT, Throttle

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANNA = User("anna", frozenset(Role))


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(timedelta(hours=12))


def test_a_session_belongs_to_its_secret_until_it_is_too_old(sessions: Sessions) -> None:
    secret = sessions.begin(ANNA, NOW)

    session = sessions.get(secret, NOW + timedelta(hours=11))

    assert session is not None
    assert session.user == ANNA
    assert sessions.get(secret, NOW + timedelta(hours=12)) is None
    assert sessions.get(secret, NOW) is None, "it does not come back"


def test_a_session_that_ended_is_gone(sessions: Sessions) -> None:
    secret, other = sessions.begin(ANNA, NOW), sessions.begin(ANNA, NOW)
    sessions.end(secret)

    assert sessions.get(secret, NOW) is None
    assert sessions.get(other, NOW) is not None


@pytest.mark.parametrize("secret", ["", "anna", "proxy anna", "('proxy', 'anna')"])
def test_no_cookie_leads_to_the_session_of_a_proxys_user(sessions: Sessions, secret: str) -> None:
    sessions.of_proxy(ANNA, NOW)

    assert sessions.get(secret, NOW) is None


def test_a_proxys_user_keeps_the_session_while_the_roles_are_the_same(sessions: Sessions) -> None:
    session = sessions.of_proxy(ANNA, NOW)

    assert sessions.of_proxy(ANNA, NOW) is session
    assert sessions.of_proxy(User("anna", frozenset({Role.READER})), NOW) is not session


def test_the_number_of_sessions_is_bounded(sessions: Sessions) -> None:
    first = sessions.begin(ANNA, NOW)
    last = [sessions.begin(ANNA, NOW) for _ in range(MOST_SESSIONS)][-1]

    assert sessions.get(first, NOW) is None
    assert sessions.get(last, NOW) is not None


def test_a_session_accepts_its_own_form_tokens_alone() -> None:
    session, other = Session(ANNA, NOW), Session(ANNA, NOW)
    tokens = [session.form_token() for _ in range(3)]

    assert len(set(tokens)) == 3
    assert all(map(session.accepts, tokens))
    assert not any(map(other.accepts, tokens))


@pytest.mark.parametrize("token", ["", "00", "zz", "00" * 64, "00" * 63, "00" * 65, "\u0660" * 128])
def test_a_text_that_is_no_token_is_refused(token: str) -> None:
    assert not Session(ANNA, NOW).accepts(token)


def test_attempts_are_throttled_after_a_burst() -> None:
    throttle = Throttle()
    for _ in range(BURST):
        assert throttle.wait_seconds("name anna", 0) == 0
        throttle.spend("name anna", 0)

    assert throttle.wait_seconds("name anna", 0) == pytest.approx(SECONDS_PER_ATTEMPT)
    assert throttle.wait_seconds("name rita", 0) == 0
    assert throttle.wait_seconds("name anna", SECONDS_PER_ATTEMPT) == 0


def test_a_success_forgets_the_failures() -> None:
    throttle = Throttle()
    for _ in range(BURST):
        throttle.spend("name anna", 0)
    throttle.forget("name anna")

    assert throttle.wait_seconds("name anna", 0) == 0


def test_the_memory_of_the_throttle_is_bounded() -> None:
    throttle = Throttle()
    for number in range(MOST_KEYS + 10):
        throttle.spend(f"address {number}", number)

    assert len(throttle._buckets) == MOST_KEYS
