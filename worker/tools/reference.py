"""The README's configuration table, from the settings: `make docs` writes it, a test compares it."""

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from worker.config.settings import PREFIX, Settings

BEGIN = "<!-- configuration: made by `make docs` -->\n"
END = "<!-- end of configuration -->\n"


def configuration_table() -> str:
    """Every setting with its default, as Markdown."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def with_table(readme: str) -> str:
    """The README with its table replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{configuration_table()}{END}{after}"


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


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text()))
