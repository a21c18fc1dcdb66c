"""The keys of a simulated gateway: from a file, from the settings, or a new one."""

from pathlib import Path

import pytest

from tests.support.signing import OTHER_SECRET, PRIVATE_KEY, PUBLIC_KEY, SECRET
from worker.config.settings import BadSettings, read_settings
from worker.simulator.gateway_behaviour import BEHAVIOURS
from worker.simulator.gateway_signing import Signing, signing_of

SVIX = {"GATEWAY": "svix", "GATEWAY_REQUIRE": "gateway"}


def signing(
    monkeypatch: pytest.MonkeyPatch, name: str, file: Path | None = None, **variables: str
) -> Signing:
    for variable, value in variables.items():
        monkeypatch.setenv(f"STOCKHOOK_{variable}", value)
    return signing_of(read_settings(), BEHAVIOURS[name], file)


def test_a_secret_of_the_settings_signs_and_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = f"{OTHER_SECRET},ovoko={SECRET}"
    signer = signing(monkeypatch, "svix", GATEWAY="svix", GATEWAY_SECRETS=secrets)

    assert [key.marketplace for key in signer.keys] == [None, "ovoko"]
    assert signer.exported == SVIX


def test_settings_of_another_gateway_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = signing(monkeypatch, "svix", GATEWAY="hookdeck", GATEWAY_SECRETS="a-secret-of-hookdeck-0123")

    assert signer.exported["GATEWAY_SECRETS"].startswith("whsec_")


@pytest.mark.parametrize("name", sorted(BEHAVIOURS.keys() - {"custom"}))
def test_a_new_secret_is_one_that_the_ingest_accepts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    exported = signing(monkeypatch, name).exported
    settings = signing(monkeypatch, name, **exported).exported

    assert "GATEWAY_SECRETS" in exported
    assert "GATEWAY_SECRETS" not in settings


def test_names_of_headers_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = '{"header": ["x-acme-signature", "x-acme-signature-2"]}'
    signer = signing(monkeypatch, "hookdeck", GATEWAY="hookdeck", GATEWAY_SIGNATURE=overrides)

    assert signer.scheme.header == ("x-acme-signature", "x-acme-signature-2")


def test_a_private_key_signs_and_its_public_key_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"{PRIVATE_KEY}\n\n{SECRET}\n")
    signer = signing(monkeypatch, "svix", file)

    assert [key.kind for key in signer.keys] == ["private", "shared"]
    assert signer.exported["GATEWAY_SECRETS"] == f"{PUBLIC_KEY},{SECRET}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no secret"),
        ("canary", "secret 1 must begin with whsec_"),
        (PUBLIC_KEY, "secret 1 is a public key"),
    ],
)
def test_a_file_without_a_usable_secret_is_refused_without_its_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "secrets"
    file.write_text(text)
    with pytest.raises(BadSettings, match=message) as refused:
        signing(monkeypatch, "svix", file)

    assert "canary" not in str(refused.value)


def test_public_keys_sign_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSettings, match="has only public keys"):
        signing(monkeypatch, "svix", GATEWAY="svix", GATEWAY_SECRETS=PUBLIC_KEY)
