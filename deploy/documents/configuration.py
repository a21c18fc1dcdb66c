"""The table of settings, from worker/config/settings.py."""

from collections.abc import Iterator

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from worker.config.settings import PREFIX, Settings


def configuration_table() -> str:
    """Every setting with its default."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _default(field: FieldInfo) -> str:
    text = ",".join(_texts(field.default))
    return f"`{text}`" if text else ""


def _texts(default: object) -> Iterator[str]:
    match default:
        case None:
            return
        case tuple():
            for part in default:
                yield from _texts(part)
        case SecretStr():
            yield default.get_secret_value()
        case _:
            yield str(default)
