"""The requests of a seller to the buyback platform, and the members of its answers that are read.

The documents (docs/providers.md) name the endpoints but no bodies. These use the names that the
platform's webhooks have for the same things: `initialSlot` and `finalSlot` of a scheduled pickup, and the
payment details object. Unknown members of answers are kept; what is read is optional, but has its type.
"""

from datetime import UTC
from typing import Annotated

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    model_validator,
)
from pydantic.alias_generators import to_camel

MOST_SLOTS = 50

# Shown only in the body of the request.
Private = Annotated[
    SecretStr,
    Field(min_length=1, max_length=200),
    PlainSerializer(SecretStr.get_secret_value, return_type=str, when_used="json"),
]

Instant = Annotated[AwareDatetime, AfterValidator(lambda instant: instant.astimezone(UTC))]


class Sent(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    def as_body(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class Slot(BaseModel):
    """A window of time for a pickup, in UTC."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    initial_slot: Instant
    final_slot: Instant

    @model_validator(mode="after")
    def _has_length(self) -> "Slot":
        if self.final_slot <= self.initial_slot:
            raise ValueError("it must end after it begins")
        return self


class PickupRequest(Sent):
    """The slots in which the courier may come."""

    slots: Annotated[tuple[Slot, ...], Field(min_length=1, max_length=MOST_SLOTS)]


class DropoffRequest(Sent):
    """The customer takes the parcel to a courier's point. The request has no members."""


class BankAccount(Sent):
    """`account_number` is an account number or IBAN, the identifier a routing number, SWIFT or BIC code."""

    account_number: Private
    financial_institution_identifier: Private
    beneficiary_name: Private


class BillingAddress(Sent):
    """`country` is an ISO 3166-1 alpha-2 code."""

    first_line: Private
    second_line: Private | None = None
    zip_code: Private
    city: Private
    state: Private | None = None
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class PaymentDetails(Sent):
    """The payment details of an order; no document confirms them (docs/providers.md#luxclusif-buyback)."""

    first_name: Private
    last_name: Private
    bank_account: BankAccount
    billing_address: BillingAddress


class Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class ShipmentCapabilities(Read):
    """None if the answer does not state it."""

    pickup_allowed: bool | None = Field(
        default=None, validation_alias=AliasChoices("pickUpAllowed", "pickupAllowed")
    )
    dropoff_allowed: bool | None = Field(
        default=None, validation_alias=AliasChoices("dropOffAllowed", "dropoffAllowed")
    )


class PickupCapabilities(Read):
    """The slots that are offered."""

    slots: tuple[Slot, ...] = ()
