"""The account at the buyback platform, from the settings."""

from dataclasses import dataclass

from pydantic import SecretStr

from worker.config.settings import PREFIX, BadSettings, Settings


@dataclass(frozen=True, slots=True)
class Account:
    """A seller at the platform. `real_ip` is our own address, by which the platform limits calls."""

    api_url: str
    sts_url: str
    client_id: str
    client_secret: SecretStr
    seller_id: str
    real_ip: str


def account_of(settings: Settings) -> Account:
    """Raises: BadSettings."""
    given = {
        "API_URL": settings.buyback_api_url and settings.buyback_api_url.get_secret_value(),
        "STS_URL": settings.buyback_sts_url and settings.buyback_sts_url.get_secret_value(),
        "CLIENT_ID": settings.buyback_client_id,
        "SELLER_ID": settings.buyback_seller_id,
        "REAL_IP": settings.buyback_real_ip and str(settings.buyback_real_ip),
    }
    secret = settings.buyback_client_secret
    missing = [name for name, value in {**given, "CLIENT_SECRET": secret}.items() if not value]
    if missing or secret is None:
        names = ", ".join(f"{PREFIX}BUYBACK_{name}" for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise BadSettings(f"{names} {verb} not set: the buyback platform requires all of them")
    return Account(
        api_url=str(given["API_URL"]),
        sts_url=str(given["STS_URL"]),
        client_id=str(given["CLIENT_ID"]),
        client_secret=secret,
        seller_id=str(given["SELLER_ID"]),
        real_ip=str(given["REAL_IP"]),
    )
