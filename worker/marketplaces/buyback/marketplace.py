"""Luxclusif Buyback, the trade-in marketplace: its entry in the registry."""

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.registry import Provider
from worker.config.check import CheckResult, error, ok
from worker.config.settings import BadSettings, Settings
from worker.marketplaces.buyback.account import account_of
from worker.marketplaces.contract import Marketplace, PrivateMembers, SecretMember
from worker.marketplaces.shape import Shape, is_amount, is_boolean, is_id, is_instant, is_integer, is_word

_PRICE: Shape = {"currencyIsoCode": is_word, "amount": is_amount}
_PROMOTION: Shape = {"id": is_id, "percentage": is_amount, "price": _PRICE}
_SHIPMENT: Shape = {"id": is_id, "carrier": is_word, "startDate": is_instant, "endDate": is_instant}
_ITEM: Shape = {
    **dict.fromkeys(("id", "brandId", "categoryId"), is_id),
    "status": is_word,
    "brand": {"id": is_id},
    "category": {"id": is_id},
    "attributes": [{"id": is_id, "values": [{"id": is_id}]}],
    "offers": [
        {
            "id": is_id,
            "status": is_word,
            "basePrice": _PRICE,
            "totalPrice": _PRICE,
            "promotions": [_PROMOTION],
        }
    ],
    "customerPrice": _PRICE,
    "totalValue": _PRICE,
    "promotionValue": is_amount,
    "promotions": [_PROMOTION],
}
_SHAPE: Shape = {
    "type": is_word,
    "result": {
        **dict.fromkeys(("id", "collectionId", "itemId"), is_id),
        **dict.fromkeys(("timestamp", "initialSlot", "finalSlot"), is_instant),
        **dict.fromkeys(("countryIsoCode", "paymentType"), is_word),
        **dict.fromkeys(("daysAfterCreation", "withinDays"), is_integer),
        "isReschedule": is_boolean,
        "rejectionReasons": [is_word],
        "shipment": _SHIPMENT,
        "activeShipmentPickup": _SHIPMENT,
        "items": [_ITEM],
        "order": {
            **dict.fromkeys(("id", "externalOrderId"), is_id),
            **dict.fromkeys(("status", "countryOfOrigin", "paymentType"), is_word),
            "items": [_ITEM],
            "shipments": [_SHIPMENT],
        },
    },
}

# Documented members whose values are never shown.
_HIDDEN_NAMES = frozenset(
    {
        "accountNumber",
        "accountNumberEnding",
        "address",
        "bankAccount",
        "beneficiaryName",
        "billingAddress",
        "brand",
        "brandName",
        "category",
        "categoryName",
        "city",
        "commercialInvoiceUrl",
        "country",
        "countryCode",
        "customerInformation",
        "customerPaymentDetails",
        "description",
        "email",
        "externalReference",
        "externalUserId",
        "files",
        "financialInstitutionIdentifier",
        "firstLine",
        "firstName",
        "label",
        "lastName",
        "location",
        "mainPhotoUrl",
        "mergedDocuments",
        "metadata",
        "model",
        "name",
        "number",
        "order",
        "required",
        "returns",
        "sealed",
        "secondLine",
        "state",
        "subType",
        "submissionExternalReference",
        "telephoneNumber",
        "timezone",
        "token",
        "trackingCode",
        "waybillUrl",
        "zipCode",
    }
)

# The last four characters of a shorter account number would reveal too much.
_SHORTEST_TO_SHOW = 5


def _account_number_ending(details: Any) -> Mapping[str, object]:
    """The last four characters of the account number, by which a customer recognizes it."""
    match details:
        case {"bankAccount": {"accountNumber": str() as number}} if len(number) >= _SHORTEST_TO_SHOW:
            return {"accountNumberEnding": number[-4:]}
        case {"accountNumber": str() as number} if len(number) >= _SHORTEST_TO_SHOW:
            return {"accountNumberEnding": number[-4:]}
        case _:
            return {"accountNumberEnding": None}


BANK_DETAILS = PrivateMembers(
    names=frozenset({"customerpaymentdetails", "bankaccount"}),
    excerpt=_account_number_ending,
)


def _api_urls(settings: Settings) -> tuple[str, ...]:
    urls = (settings.buyback_api_url, settings.buyback_sts_url) if settings.buyback_client_id else ()
    return tuple(url.get_secret_value() for url in urls if url is not None)


def _check_settings(settings: Settings) -> Iterator[CheckResult]:
    if settings.rerequest_pickup == "off":
        return
    try:
        account_of(settings)
    except BadSettings as fault:
        yield error(
            "actions",
            f"missed pickups cannot be requested again: {fault}",
            "set it for the consumers, or STOCKHOOK_REREQUEST_PICKUP=off",
        )
    else:
        yield ok("actions", "missed pickups are requested again, for the first offered slot")


BUYBACK = Marketplace(
    name=Provider.BUYBACK,
    title="Luxclusif Buyback",
    secrets_setting="buyback_tokens",
    authentication=SecretMember("token"),
    shape=_SHAPE,
    hidden_names=_HIDDEN_NAMES,
    private=BANK_DETAILS,
    summary="Luxclusif Buyback's events",
    api_urls=_api_urls,
    check_settings=_check_settings,
)
