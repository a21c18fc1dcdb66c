"""The environment that `make run` gives the product, and its file for other terminals."""

import base64
import re
import shlex

import pytest

from deploy.local.environment import console_settings, product_settings, shell_lines
from deploy.local.rabbitmq import definitions_for, password_hash
from deploy.local.run import summary
from deploy.local.secrets import KINDS, make_secret
from deploy.local.services import DEV, Services, Unavailable, given_services
from worker.config.console_accounts import PasswordHash

SERVICES = Services("amqp://own", "postgresql://own")
SECRETS = {kind: f"own {kind}" for kind in KINDS}


def read_by_a_shell(text: str) -> dict[str, str]:
    tokens = shlex.split(text)
    return dict(word.split("=", 1) for word in tokens if word != "export")


@pytest.mark.parametrize("value", ["plain", "two words", "it's", '$HOME `id` "x" \\', "a\nb", "", "ключ"])
def test_a_shell_reads_every_value_as_it_was(value: str) -> None:
    assert read_by_a_shell(shell_lines({"STOCKHOOK_X": value})) == {"STOCKHOOK_X": value}


def test_the_callers_environment_wins() -> None:
    given = {
        "STOCKHOOK_OVOKO_SECRETS": "mine",
        "STOCKHOOK_INGEST_PORT": "18080",
        "STOCKHOOK_OPS_PORT": "19090",
        "STOCKHOOK_SEALING_KEYS": "",
        "PATH": "/bin",
    }

    assert product_settings(SERVICES, SECRETS, given) == {
        "STOCKHOOK_AMQP_URL": "amqp://own",
        "STOCKHOOK_DATABASE_URL": "postgresql://own",
        "STOCKHOOK_INGEST_HOST": "127.0.0.1",
        "STOCKHOOK_INGEST_PORT": "18080",
        "STOCKHOOK_OPS_PORT": "19090",
        "STOCKHOOK_OVOKO_SECRETS": "mine",
        "STOCKHOOK_BUYBACK_TOKENS": "own buyback_token",
        "STOCKHOOK_SEALING_KEYS": "own sealing_key",
        "STOCKHOOK_SPOOL_PATH": str(DEV / "spool.sqlite3"),
    }


def test_services_of_the_environment_are_used_unchanged() -> None:
    given = {"STOCKHOOK_AMQP_URL": "amqp://theirs", "STOCKHOOK_DATABASE_URL": "postgresql://theirs"}

    assert given_services(given) == Services("amqp://theirs", "postgresql://theirs")
    assert given_services({}) is None


@pytest.mark.parametrize("name", ["STOCKHOOK_AMQP_URL", "STOCKHOOK_DATABASE_URL"])
def test_only_one_given_service_is_refused(name: str) -> None:
    with pytest.raises(Unavailable, match="set both"):
        given_services({name: "something"})


def test_a_sealing_key_has_the_form_that_fernet_requires() -> None:
    assert len(base64.urlsafe_b64decode(make_secret("sealing_key"))) == 32
    assert make_secret("sealing_key") != make_secret("sealing_key")


def test_the_broker_learns_the_password_only_as_a_salted_hash() -> None:
    definitions = definitions_for("canary")

    assert "canary" not in str(definitions)
    assert password_hash("canary") != password_hash("canary")
    assert len(base64.b64decode(password_hash("canary"))) == 4 + 32


def test_the_console_has_one_user_with_every_role_and_a_port_of_its_own() -> None:
    product = {"STOCKHOOK_INGEST_PORT": "18080", "STOCKHOOK_OPS_PORT": "19090"}
    own = console_settings(product, SECRETS, {})
    name, roles, password = own["STOCKHOOK_CONSOLE_USERS"].split(":")

    assert (name, roles) == ("developer", "operator+revealer")
    assert PasswordHash.read(password).matches(SECRETS["console_password"])
    assert own["STOCKHOOK_CONSOLE_PORT"] not in ("18080", "19090", "19091")


def test_the_callers_users_of_the_console_win() -> None:
    product = {"STOCKHOOK_INGEST_PORT": "18080", "STOCKHOOK_OPS_PORT": "19090"}
    given = {"STOCKHOOK_CONSOLE_PORT": "18081", "STOCKHOOK_CONSOLE_PROXY_USER_HEADER": "X-User"}

    assert console_settings(product, SECRETS, given) == {}


def test_the_summary_shows_the_console_with_its_login_and_fits_a_terminal() -> None:
    settings = {
        "STOCKHOOK_INGEST_HOST": "127.0.0.1",
        "STOCKHOOK_INGEST_PORT": "18080",
        "STOCKHOOK_OPS_PORT": "19090",
        "STOCKHOOK_CONSOLE_PORT": "18081",
        "STOCKHOOK_OVOKO_SECRETS": make_secret("ovoko_secret"),
        "STOCKHOOK_MANAGEMENT_URL": f"http://stockhook:{make_secret('rabbitmq')}@127.0.0.1:15672",
    }
    password = make_secret("console_password")
    lines = re.sub(r"\[/?bold green\]", "", summary(settings, password)).splitlines()
    console = lines.index("  console     http://127.0.0.1:18081/")

    assert lines[console + 1].split() == ["user", "developer,", "password", password]
    # The command to paste is one line.
    assert [line for line in lines if len(line) > 80 and "curl" not in line] == []
    assert "developer" not in summary(settings, None)
