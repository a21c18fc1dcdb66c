"""Accounts of the console: the setting, and the hash of a password."""

import pytest
from pydantic import ValidationError

from tests.support.console import PASSWORD, password_hash
from worker.config.console_accounts import PasswordHash, Role
from worker.config.settings import Settings


def test_a_hash_matches_its_password_alone() -> None:
    read = PasswordHash.read(password_hash())

    assert read.matches(PASSWORD)
    assert not read.matches(PASSWORD + "x")
    assert not read.matches("")


def test_two_hashes_of_a_password_differ() -> None:
    assert str(PasswordHash.of(PASSWORD)) != password_hash()


def test_a_hash_has_no_character_that_a_shell_or_compose_changes() -> None:
    assert not set(password_hash()) & set("$,:'\"\\ `")


def test_users_have_one_role_or_several_and_may_always_read() -> None:
    made = password_hash()
    anna, rita = Settings(
        console_users=f"anna:operator+revealer:{made}, rita:reader:{made}"  # type: ignore[arg-type]
    ).console_accounts

    assert (anna.name, anna.roles) == ("anna", frozenset(Role))
    assert (rita.name, rita.roles) == ("rita", frozenset({Role.READER}))


@pytest.mark.parametrize(
    ("users", "rule"),
    [
        ("anna", "entry 1 must be NAME:ROLE:HASH"),
        ("an na:reader:HASH", "entry 1 must be NAME:ROLE:HASH"),
        ("anna:admin:HASH", "entry 1 has a role that is none of reader, operator, revealer"),
        ("anna:reader:HASH,rita:reader:secret", "entry 2 has no hash of a password"),
        ("anna:reader:HASH,anna:operator:HASH", "must name each user once"),
        ("anna:reader:scrypt.1024.8.1.AAAA.AAAA", "entry 1 has no hash of a password"),
        ("anna:reader:scrypt.1073741824.8.1.AAAA.AAAA", "entry 1 has no hash of a password"),
    ],
)
def test_a_bad_setting_is_refused_without_its_text(users: str, rule: str) -> None:
    with pytest.raises(ValidationError) as error:
        Settings(console_users=users.replace("HASH", password_hash()))  # type: ignore[arg-type]

    (detail,) = error.value.errors()
    assert rule in detail["msg"]
    assert "secret" not in detail["msg"]
    assert password_hash() not in detail["msg"]
