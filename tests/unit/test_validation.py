"""Broken rules as sentences."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from schemas.validation import broken_rules, rule_names


class Address(BaseModel):
    city: str
    zip_code: int

    @field_validator("city")
    @classmethod
    def _has_letters(cls, city: str) -> str:
        if not city.isalpha():
            raise ValueError("must be letters")
        return city


class Person(BaseModel):
    addresses: list[Address]

    @model_validator(mode="after")
    def _has_one(self) -> "Person":
        if not self.addresses:
            raise ValueError("must have an address")
        return self


def error_of(document: Any) -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Person.model_validate(document)
    return raised.value


def test_a_sentence_names_the_path_and_the_rule() -> None:
    error = error_of({"addresses": [{"city": "55", "zip_code": 1}]})

    assert list(map(str, broken_rules(error))) == ["addresses.0.city: must be letters"]


def test_a_rule_of_the_whole_document_has_no_path() -> None:
    error = error_of({"addresses": []})

    assert list(map(str, broken_rules(error))) == ["must have an address"]
    assert rule_names(error, "event", 5) == "event: value_error"


def test_names_quote_no_value_and_the_number_of_further_rules_is_stated() -> None:
    error = error_of({"addresses": [{"city": "55501", "zip_code": f"canary {number}"} for number in (1, 2)]})

    assert rule_names(error, "event", 3) == (
        "addresses.0.city: value_error; addresses.0.zip_code: int_parsing; addresses.1.city: value_error; "
        "and 1 more"
    )
