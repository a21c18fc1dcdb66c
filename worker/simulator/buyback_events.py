"""The buyback platform's webhooks about an order, in the documented shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from schemas.registry import Provider
from worker.simulator.buyback_fixtures import PLACEHOLDER, Json, Order
from worker.simulator.lifecycle import GeneratedEvent


@dataclass(frozen=True, slots=True)
class EventResults:
    """Builds the results of events from an order and the statuses of its items."""

    order: Order
    statuses: Sequence[str]

    def snapshot(self, status: str, shipments: Sequence[Json]) -> dict[str, object]:
        """The order in the shape of most events; without a status it has no country either."""
        return {
            "id": self.order.order_id,
            **self.order.references,
            "commercialInvoiceUrl": f"https://invoices.example/{self.order.order_id}.pdf",
            "status": status,
            "countryOfOrigin": "None" if status == "None" else self.order.country,
            "customerInformation": self.order.customer,
            "items": [
                {"id": item["id"], "status": status, **item}
                for item, status in zip(self.order.items, self.statuses, strict=True)
            ],
            "shipments": shipments,
        }

    def created(self) -> Json:
        order = self.snapshot("Created", ())
        del order["status"], order["shipments"]
        return {"id": self.order.order_id, "order": order}

    def not_scheduled(self, days_after_creation: int) -> Json:
        return {
            "daysAfterCreation": days_after_creation,
            "order": self.snapshot("Created", ()),
            "collectionId": self.order.order_id,
        }

    def moved(self, item_id: object, order_status: str, shipment: Json, more: Json) -> Json:
        """The result of an event about one item, with the order after it."""
        return {
            "collectionId": self.order.order_id,
            "itemId": item_id,
            **more,
            "shipment": shipment,
            "order": self.snapshot(order_status, (shipment,)),
        }

    def picked_up_soon(self, shipment: Json, begins: datetime, ends: datetime) -> Json:
        """A reminder, in the newer of its two documented shapes."""
        return {
            "withinDays": 1,
            "order": self.snapshot("None", ({**shipment, "id": PLACEHOLDER},)),
            "activeShipmentPickup": {
                "startDate": _stamp(begins),
                "endDate": _stamp(ends),
                **_without_id(shipment),
            },
            "collectionId": self.order.order_id,
        }

    def dropped_off(self, shipment: Json) -> Json:
        """The result of an order for a drop-off point."""
        return {
            "order": self.snapshot("None", ({**shipment, "id": PLACEHOLDER},)),
            "shipment": _without_id(shipment),
            "collectionId": self.order.order_id,
        }

    def inspected(self, place: int, verdict: Json) -> Json:
        """A flat result without an order. `verdict` is a payment type, or reasons for a rejection."""
        order = self.order
        return {
            "collectionId": order.order_id,
            "itemId": order.items[place]["id"],
            "externalReference": order.references["externalReference"],
            "submissionExternalReference": order.references["submissionExternalReference"],
            "countryIsoCode": order.country,
            **verdict,
            "customerInformation": _with_name(order.customer),
            "items": [{**order.flat_items[place], "status": self.statuses[place]}],
        }

    def to_be_paid(self, shipments: Sequence[Json], account_number: str, identifier: str) -> Json:
        """The result with the customer's bank account, which the receiver must encrypt."""
        order, customer = self.snapshot("Closed", shipments), self.order.customer
        details = {
            "firstName": customer["firstName"],
            "lastName": customer["lastName"],
            "bankAccount": {
                "accountNumber": account_number,
                "financialInstitutionIdentifier": identifier,
                "beneficiaryName": f"{customer['firstName']} {customer['lastName']}",
            },
            "billingAddress": customer["address"],
        }
        order["paymentType"] = self.order.payment_type
        order["customerInformation"] = {**customer, "customerPaymentDetails": details}
        return {"order": order, "collectionId": self.order.order_id}


def appointment(order_id: str, initial_slot: datetime, final_slot: datetime, *, is_reschedule: bool) -> Json:
    """The members of the event about a scheduled pickup."""
    return {
        "initialSlot": initial_slot.isoformat(),
        "finalSlot": final_slot.isoformat(),
        "isReschedule": is_reschedule,
        "commercialInvoiceUrl": f"https://invoices.example/{order_id}.pdf",
    }


def event(event_type: str, result: Json, occurred_at: datetime) -> GeneratedEvent:
    body = {"type": event_type, "token": "", "result": {"timestamp": _stamp(occurred_at), **result}}
    return GeneratedEvent(Provider.BUYBACK, event_type, occurred_at, orjson.dumps(body))


def _without_id(shipment: Json) -> Json:
    return {name: value for name, value in shipment.items() if name != "id"}


def _with_name(customer: Json) -> Json:
    """The quality check's events call the first name `name`."""
    return {("name" if key == "firstName" else key): value for key, value in customer.items()}


def _stamp(instant: datetime) -> str:
    """UTC with up to seven fractional digits, without trailing zeros, in the platform's format."""
    digits = f"{instant.microsecond:06d}{instant.microsecond * 7 % 10}".rstrip("0")
    return f"{instant:%Y-%m-%dT%H:%M:%S}{'.' if digits else ''}{digits}Z"
