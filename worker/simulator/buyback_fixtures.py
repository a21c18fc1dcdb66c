"""Invented data of a generated buyback order: customer, items and shipments."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from worker.simulator.lifecycle import drawn, happens, new_id

Json = Mapping[str, object]

PLACEHOLDER = "00000000-0000-0000-0000-000000000001"

# Country code, country, city, time zone, dialling code, currency.
_PLACES = (
    ("PT", "Portugal", "Lisboa", "Europe/Lisbon", "351", "EUR"),
    ("FR", "France", "Orléans", "Europe/Paris", "33", "EUR"),
    ("PL", "Polska", "Łódź", "Europe/Warsaw", "48", "PLN"),
    ("LT", "Lietuva", "Šiauliai", "Europe/Vilnius", "370", "EUR"),
    ("US", "United States", "Tucson", "America/Phoenix", "1", "USD"),
)
_FIRST_NAMES = ("Ana", "Zoë", "Łukasz", "Marie-Claire", "Šarūnas", "James", "Conceição", "Noor")
_LAST_NAMES = ("Silva", "O'Brien", "Wójcik", "Kazlauskas", "Lefèvre", "van der Berg", "Smith")
_CATEGORIES = ("Bags", "Watches", "Shoes", "Jewelry")
_BRANDS = ("Balenciaga", "Gucci", "Alexander McQueen", "Chloé", "Hermès", "Bottega Veneta")
_MODELS = ("City", "Jackie 1961", "Skull Clutch", "Marcie", "Kelly 28", "Cassette")
_CARRIERS = ("DHLExpress", "UPS", "FedEx", "InPost")


@dataclass(frozen=True, slots=True)
class Order:
    """The constant data of an order.

    Each of `items` lacks only its status; `flat_items` are the same items in the shape of the quality check.
    """

    order_id: str
    references: Json
    country: str
    payment_type: str
    customer: Json
    items: tuple[Json, ...]
    flat_items: tuple[Json, ...]


def new_order(rng: Random) -> Order:
    country, name, city, timezone, dialling_code, currency = rng.choice(_PLACES)
    reference = f"{rng.getrandbits(32):08X}"
    customer = {
        "firstName": rng.choice(_FIRST_NAMES),
        "lastName": rng.choice(_LAST_NAMES),
        "email": f"customer-{reference.lower()}@example.com",
        "address": {
            "firstLine": f"Example Street {rng.randrange(1, 200)}",
            "secondLine": "",
            "zipCode": f"{rng.randrange(10_000, 100_000)}",
            "city": city,
            "state": city,
            "country": name,
            "timezone": timezone,
        },
        "telephoneNumber": {
            "countryCode": dialling_code,
            "number": f"{rng.randrange(10**8, 10**9)}",
        },
        "externalUserId": f"U{reference}",
    }
    items = [_new_item(rng, currency) for _ in range(drawn(rng, ((1, 6), (2, 3), (3, 1))))]
    return Order(
        order_id=new_id(rng),
        references={
            "externalOrderId": f"EO-{reference}",
            "externalReference": f"OC{reference}",
            "submissionExternalReference": f"QC{reference}",
        },
        country=country,
        payment_type=drawn(rng, (("Cash", 6), ("Credit", 4))),
        customer=customer,
        items=tuple(item for item, _ in items),
        flat_items=tuple(flat for _, flat in items),
    )


def _new_item(rng: Random, currency: str) -> tuple[Json, Json]:
    """An item in the shape of snapshots, and in that of the quality check."""
    item_id, category_id, brand_id = (new_id(rng) for _ in range(3))
    category, brand = rng.choice(_CATEGORIES), rng.choice(_BRANDS)
    model = rng.choice(_MODELS)
    photo = f"https://images.example/{item_id}.jpeg"
    base_amount, uplift, percentage = _prices(rng)
    base = {"currencyIsoCode": currency, "amount": _amount(base_amount)}
    total = {"currencyIsoCode": currency, "amount": _amount(base_amount + uplift)}
    promotion = {
        "id": PLACEHOLDER,
        "name": "PlatformPartnerUplift",
        "price": {"currencyIsoCode": currency, "amount": _amount(uplift)},
        "percentage": percentage,
    }
    promotions = [promotion] if uplift else []
    offer = {
        "id": new_id(rng),
        "basePrice": base,
        "totalPrice": total,
        "status": "WinningOffer",
        "promotions": promotions,
    }
    item = {
        "id": item_id,
        "category": {"id": category_id, "name": category},
        "brand": {"id": brand_id, "name": brand},
        "model": model,
        "description": f"{brand} {model}, hardly worn",
        "attributes": [_attribute(rng, "Size", "M"), _attribute(rng, "Condition", "APlus")],
        "offers": [offer],
        "files": [
            {
                "type": "Photos",
                "location": photo,
                "metadata": {"name": "Front", "order": "0", "required": "True"},
            }
        ],
        "returns": [],
        "rejectionReasons": [],
    }
    flat = {
        # Often another id than in the event, for the same item.
        "id": new_id(rng) if happens(rng, 0.3) else item_id,
        "model": model,
        "brandId": brand_id,
        "brandName": brand,
        "categoryId": category_id,
        "categoryName": category,
        "mainPhotoUrl": photo,
        "totalValue": total,
        "customerPrice": base,
        "promotionValue": _amount(uplift),
        "promotions": promotions,
    }
    return item, flat


def _prices(rng: Random) -> tuple[int, int, int | float]:
    """Base price and uplift in hundredths, and the uplift in per cent, possibly with a fraction."""
    base = rng.randrange(40, 3000) * 100
    if happens(rng, 0.4):
        base += rng.randrange(100)
    percentage = drawn(rng, ((0, 4), (5.0, 2), (10, 3), (12.5, 1)))
    return base, round(base * percentage / 100), percentage


def _amount(hundredths: int) -> int | float:
    return hundredths / 100 if hundredths % 100 else hundredths // 100


def _attribute(rng: Random, name: str, label: str) -> Json:
    value = {"id": new_id(rng), "label": label}
    return {"id": new_id(rng), "name": name, "values": [value]}


def new_shipment(rng: Random) -> Json:
    tracking_code = f"{rng.randrange(10**9, 10**10)}"
    return {
        "id": new_id(rng),
        "waybillUrl": f"https://waybills.example/{tracking_code}.pdf",
        "trackingCode": tracking_code,
        "carrier": rng.choice(_CARRIERS),
        "mergedDocuments": f"https://waybills.example/{tracking_code}-merged.pdf",
    }
