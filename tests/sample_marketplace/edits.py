"""Lines that a new marketplace with one family adds to files that exist."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """In `file`, `added` goes before or after `anchor`, which occurs once."""

    file: str
    anchor: str
    added: str
    before: bool = False


EDITS = (
    Edit("schemas/registry.py", '    BUYBACK = "buyback"\n', '    SAMPLE = "sample"\n'),
    Edit("schemas/registry.py", "from schemas import buyback, ovoko", ", sample"),
    Edit(
        "schemas/registry.py",
        "    Provider.BUYBACK: buyback.SCHEMA,\n",
        "    Provider.SAMPLE: sample.SCHEMA,\n",
    ),
    Edit(
        "schemas/changes.py",
        "State = PartState | OrderState | ReturnState | BuybackState | ReminderState | CommunicationState",
        " | OfferState",
    ),
    Edit(
        "schemas/changes.py",
        "State = PartState |",
        "@dataclass(frozen=True, slots=True)\n"
        "class OfferState:\n"
        '    """Whether an offer is for sale, and at which price."""\n'
        "\n"
        "    offer_id: str\n"
        "    is_for_sale: bool\n"
        "    price: Decimal | None\n"
        "\n"
        "\n",
        before=True,
    ),
    Edit(
        "schemas/changes.py",
        '    ReminderState: ("reminder.schedule_pickup", "reminder.pickup", "reminder.drop_off"),\n',
        '    OfferState: ("offer.published", "offer.withdrawn"),\n',
    ),
    Edit(
        "consumers/registry.py",
        "from consumers.orders.store import ORDERS\n",
        "from consumers.offers.store import OFFERS\n",
        before=True,
    ),
    Edit(
        "consumers/registry.py",
        "(INVENTORY, ORDERS, RETURNS, BUYBACKS, REMINDERS",
        ", OFFERS",
    ),
    Edit(
        "worker/marketplaces/registry.py",
        "from worker.marketplaces.ovoko.marketplace import OVOKO\n",
        "from worker.marketplaces.sample.marketplace import SAMPLE\n",
    ),
    Edit("worker/marketplaces/registry.py", "(OVOKO, BUYBACK", ", SAMPLE"),
    Edit(
        "worker/config/settings.py",
        "    sealing_keys: ",
        "    sample_secrets: Secrets = Field(\n"
        "        default=(),\n"
        '        description="Secrets accepted from Sample, comma-separated, the newest first",\n'
        "    )\n",
        before=True,
    ),
)
