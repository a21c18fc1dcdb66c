"""What Ovoko's API answers (source: docs/providers.md)."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from schemas.events import read_json
from schemas.fields import Amount, Id, Key, OptionalId, Text
from schemas.tolerance import Tolerant, validated
from schemas.validation import rule_names

SUCCESS = "R200"
NOT_FOUND = "R404"
MOST_PARTS_ON_A_PAGE = 100

# The API counts statuses, and has fewer of them than the webhooks. A part that may be in stock or sold
# (`unknown_stock_status`, which has no number) agrees with both.
STATUSES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "0": frozenset({"in_warehouse", "unknown_stock_status"}),
        "1": frozenset({"reserved"}),
        "2": frozenset({"sold", "sold_in_ebay", "sold_in_allegro", "unknown_stock_status"}),
        "3": frozenset({"returned"}),
        "4": frozenset({"written_off"}),
    }
)
WEBHOOK_STATUSES: Mapping[str, str] = MappingProxyType(
    {"0": "in_warehouse", "1": "reserved", "2": "sold", "3": "returned", "4": "written_off"}
)
STATUS_TEXTS: Mapping[str, str] = MappingProxyType(
    {"0": "in stock", "1": "reserved", "2": "sold", "3": "returned", "4": "written off"}
)

Row = TypeVar("Row", bound="Entity")

# An error names this many broken rules of a row.
MOST_NAMED = 5


class InvalidAnswer(Exception):
    """No JSON, or of another shape than documented. Its text names fields and rules, never a value."""


def _instant_or_nothing(value: object) -> datetime | None:
    """A moment with its offset; anything else (no offset, PHP's zero date) says nothing for certain."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
        if instant is None or instant.tzinfo is None or not 1970 < instant.year < 9999:
            return None
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


Moment = Annotated[datetime | None, BeforeValidator(_instant_or_nothing)]


def _empty_as_null(value: object) -> object:
    return None if value == "" else value


# Ovoko sends an empty text for an unknown value.
OptionalText = Annotated[Text | None, BeforeValidator(_empty_as_null)]
Sum = Annotated[Amount | None, BeforeValidator(_empty_as_null)]


class ApiModel(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", coerce_numbers_to_str=True, validate_by_name=True, validate_by_alias=True
    )


class Entity(ApiModel, Tolerant):
    """An entity that can be requested by its id."""

    @property
    @abstractmethod
    def entity_id(self) -> str: ...


class PartEntity(Entity):
    part_id: Id = Field(validation_alias=AliasChoices("id", "part_id"))

    @property
    def entity_id(self) -> str:
        return self.part_id


class ListedPart(PartEntity):
    """A part, out of the list or alone. `status` is a number as text, or a word as in the webhooks."""

    status: Key
    external_id: OptionalId = None
    id_bridge: OptionalId = None
    price: Sum = None
    updated_at: Moment = None

    @property
    def merchants_id(self) -> str | None:
        """The merchant's own id; the deprecated spelling counts only where the new one is null."""
        return self.id_bridge if self.external_id is None else self.external_id

    @property
    def status_text(self) -> str:
        return f"{self.status} ({STATUS_TEXTS[self.status]})" if self.status in STATUS_TEXTS else self.status

    @property
    def webhook_status(self) -> str:
        """The status in the webhooks' spelling; the most general one for a number with several meanings."""
        return WEBHOOK_STATUSES.get(self.status, self.status)

    def agrees_with(self, status: str) -> bool:
        """Whether a webhook of this status says the same."""
        return status in STATUSES.get(self.status, frozenset({self.status}))


class PartDescription(PartEntity):
    """The details of a part that are stored. Photos, the car and the seller's notes are not read."""

    name: OptionalText = None
    price: Sum = None
    currency: OptionalText = None
    manufacturer_code: OptionalText = None
    visible_code: OptionalText = None
    other_code: OptionalText = None


class ReturnedItem(ApiModel):
    part_id: OptionalId = None
    name: OptionalText = None
    return_reason: OptionalText = None
    price: Sum = None
    returnable_amount: Sum = None
    currency: OptionalText = None


class OrderReturn(Entity):
    """A return with its items. Customer data is not read."""

    return_id: Id = Field(validation_alias=AliasChoices("id", "return_id"))
    order_id: Id
    status: Key
    created_at: Moment = None
    currency: OptionalText = None
    total_returnable_amount: Sum = None
    order_return_items: tuple[ReturnedItem, ...] = ()

    @property
    def entity_id(self) -> str:
        return self.return_id


class Pagination(ApiModel):
    total_count: int = Field(ge=0, le=1_000_000_000)


class Answer(ApiModel):
    """Around every answer. The HTTP status is 200 even where it failed: `status_code` says whether."""

    status_code: Key
    msg: Any = None
    rows: list[Any] | None = Field(default=None, validation_alias=AliasChoices("list", "data"))
    pagination: Pagination | None = None

    @property
    def is_success(self) -> bool:
        return self.status_code == SUCCESS

    @property
    def is_not_found(self) -> bool:
        return self.status_code == NOT_FOUND


def read_answer(body: bytes) -> Answer:
    """Read what stands around an answer's rows; numbers exactly.

    Raises:
        InvalidAnswer
    """
    try:
        return Answer.model_validate(read_json(body))
    except ValidationError as error:
        raise InvalidAnswer(rule_names(error, "it", MOST_NAMED)) from None
    except ValueError:
        raise InvalidAnswer("no JSON") from None


@dataclass(frozen=True, slots=True)
class Rows(Generic[Row]):
    """An answer's rows. `unreadable` names, of each other one, its place, from 0, and the rules it breaks."""

    read: list[Row]
    unreadable: tuple[str, ...] = ()

    @property
    def unreadable_fields(self) -> Counter[str]:
        """Of the rows that were read: fields that were not, and in how many rows."""
        return Counter(name for row in self.read for name in row.unreadable_fields)


def rows_of(answer: Answer, model: type[Row]) -> Rows[Row]:
    """Its rows; Ovoko sends them in a list, or in a list within a list.

    Raises:
        InvalidAnswer: There is no list.
    """
    if answer.rows is None:
        raise InvalidAnswer("list: missing")
    flat = [row for outer in answer.rows for row in (outer if isinstance(outer, list) else [outer])]
    read: list[Row] = []
    unreadable: list[str] = []
    for place, document in enumerate(flat):
        try:
            row, unreadable_fields = validated(model.model_validate, document)
        except ValidationError as error:
            unreadable.append(f"row {place}: {rule_names(error, 'it', MOST_NAMED)}")
        else:
            row.note_unreadable_fields(unreadable_fields)
            read.append(row)
    return Rows(read, tuple(unreadable))
