"""Sample as a marketplace: its entry in the registry."""

from schemas.registry import Provider
from worker.marketplaces.contract import Marketplace, SecretHeader
from worker.marketplaces.shape import is_amount, is_id, is_instant, is_word

SAMPLE = Marketplace(
    name=Provider.SAMPLE,
    title="Sample",
    secrets_setting="sample_secrets",
    authentication=SecretHeader(lambda _settings: "X-Sample-Secret"),
    shape={
        "kind": is_word,
        "id": is_id,
        "at": is_instant,
        "offer": {"offer_id": is_id, "price": is_amount},
    },
    summary="Sample's events",
)
