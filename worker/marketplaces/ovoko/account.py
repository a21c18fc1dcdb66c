"""The account at Ovoko, from the settings."""

from dataclasses import dataclass

from pydantic import SecretStr

from worker.config.settings import BadSettings, Settings


@dataclass(frozen=True, slots=True)
class Account:
    """A merchant at Ovoko: the three form fields that every call carries, and where it goes."""

    api_url: str
    username: str
    password: SecretStr
    user_token: SecretStr

    def as_form(self) -> dict[str, str]:
        return {
            "username": self.username,
            "password": self.password.get_secret_value(),
            "user_token": self.user_token.get_secret_value(),
        }

    def is_in(self, text: str) -> bool:
        """Whether a text contains one of its secrets."""
        return self.password.get_secret_value() in text or self.user_token.get_secret_value() in text


def account_of(settings: Settings) -> Account:
    """Raises: BadSettings, which names what is not set."""
    username, password, token = settings.ovoko_username, settings.ovoko_password, settings.ovoko_user_token
    given = {"USERNAME": username, "PASSWORD": password, "USER_TOKEN": token}
    missing = [f"STOCKHOOK_OVOKO_{name}" for name, value in given.items() if value is None]
    if username is None or password is None or token is None:
        verb = "is" if len(missing) == 1 else "are"
        raise BadSettings(f"{', '.join(missing)} {verb} not set: Ovoko's API requires all three")
    return Account(settings.ovoko_api_url.get_secret_value(), username, password, token)
