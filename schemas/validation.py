"""The rules that a document breaks, as sentences."""

from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule, and the path of the field that breaks it, which is empty for the document as a whole.

    The text can quote a part of the value; path and name never do. As a string: path and text.
    """

    path: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


def broken_rules(error: ValidationError, most: int | None = None) -> list[BrokenRule]:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        BrokenRule(
            ".".join(map(str, detail["loc"])),
            detail["type"],
            # pydantic's prefix of a ValueError's text.
            detail["msg"].removeprefix("Value error, "),
        )
        for detail in details[:most]
    ]


def rule_names(error: ValidationError, document: str, most: int) -> str:
    """Paths and names of broken rules, which quote no value. `document` names the document itself."""
    named = [f"{broken.path or document}: {broken.name}" for broken in broken_rules(error, most)]
    unnamed = error.error_count() - len(named)
    return "; ".join(named) + (f"; and {unnamed} more" if unnamed else "")
