"""All marketplaces."""

from schemas.registry import Provider
from worker.config.settings import Settings
from worker.marketplaces.buyback.marketplace import BUYBACK
from worker.marketplaces.contract import Marketplace
from worker.marketplaces.ovoko.marketplace import OVOKO

MARKETPLACES: dict[Provider, Marketplace] = {
    marketplace.name: marketplace for marketplace in (OVOKO, BUYBACK)
}


def api_urls(settings: Settings) -> tuple[str, ...]:
    """Those of the marketplaces' APIs for which credentials are set."""
    return tuple(url for marketplace in MARKETPLACES.values() for url in marketplace.api_urls(settings))
