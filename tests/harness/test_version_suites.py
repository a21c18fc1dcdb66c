"""The configuration that tests on other Debian releases copy from this machine."""

import pytest

from tests.versions.suites import SUITES
from tests.versions.systems import pip_configuration, unexpected, upstream

TRIXIE = next(suite for suite in SUITES if suite.name == "trixie")


def test_the_files_of_pip_become_one_and_its_environment_stays_out() -> None:
    listed = (
        ":env:.timeout='7'\nglobal.extra-index-url='\\nhttps://a.example\\nhttps://b.example'\n"
        "global.index-url='https://a.example/simple'\ninstall.no-binary='one'\n"
    )

    assert pip_configuration(listed) == (
        "[global]\nextra-index-url = https://a.example\n    https://b.example\n"
        "index-url = https://a.example/simple\n[install]\nno-binary = one\n"
    )


def test_only_another_series_is_reported() -> None:
    versions = {"RabbitMQ": "4.0.9", "Postgres": "18.0", "Python": "3.13.11"}

    assert unexpected(TRIXIE, versions) == ["trixie now has Postgres 18.0, where 17 was expected"]
    assert unexpected(TRIXIE, {**versions, "Postgres": "17.2", "RabbitMQ": "4.01.2"}) == [
        "trixie now has RabbitMQ 4.01.2, where 4.0 was expected"
    ]


@pytest.mark.parametrize(
    ("package", "program"),
    [("4.0.5-7", "4.0.5"), ("1:27.3.4.1+dfsg-1+deb13u1", "27.3.4.1"), ("3.5.4-1~deb13u2", "3.5.4")],
)
def test_the_version_of_a_program_is_read_from_its_package(package: str, program: str) -> None:
    assert upstream(package) == program
