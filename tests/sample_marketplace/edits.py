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
    Edit(
        "tests/unit/test_rules.py",
        "from schemas.event_schema import Payload\n",
        "from schemas.registry import Provider\n",
    ),
    Edit("tests/unit/test_rules.py", "    part,\n", "    read,\n"),
    Edit(
        "tests/unit/test_rules.py",
        "CASES: tuple[Case, ...] = (\n",
        "def offer(kind: str, second: int) -> Payload:\n"
        '    document = {"kind": kind, "at": f"2026-03-01T12:00:0{second}Z", "offer": {"offer_id": "O1"}}\n'
        "    return read(Provider.SAMPLE, document)\n"
        "\n"
        "\n",
        before=True,
    ),
    Edit(
        "tests/unit/test_rules.py",
        "CASES: tuple[Case, ...] = (\n",
        '    ("offers", "FIRST", (offer("offer.published", 1),)),\n'
        '    ("offers", "NEWEST", (offer("offer.published", 1), offer("offer.withdrawn", 2))),\n'
        '    ("offers", "OLDER", (offer("offer.withdrawn", 2), offer("offer.published", 1))),\n',
    ),
    Edit(
        "tests/unit/test_convergence.py",
        "from schemas.events import OBSERVATIONS, routing_key_of\n",
        "from schemas.registry import Provider\n",
    ),
    Edit(
        "tests/unit/test_convergence.py",
        "PAYLOADS = {\n",
        "offers = st.builds(\n"
        "    lambda kind, second, price: events.read(\n"
        "        Provider.SAMPLE,\n"
        "        {\n"
        '            "kind": kind,\n'
        '            "at": events.instant(second).isoformat(),\n'
        '            "offer": {"offer_id": "O1", "price": price},\n'
        "        },\n"
        "    ),\n"
        '    st.sampled_from([wire_type(model) for model in FAMILIES["offers"].payloads]),\n'
        "    SECONDS,\n"
        "    st.sampled_from([None, 1, 2]),\n"
        ")\n",
        before=True,
    ),
    Edit("tests/unit/test_convergence.py", "PAYLOADS = {\n", '    "offers": offers,\n'),
)
