"""An example of each observation that Stockhook publishes, of all marketplaces."""

from datetime import datetime

from consumers.returns.decide import Return
from schemas.registry import Provider
from worker.tools.reconcile.ovoko import OurPart, part_observed, return_observed


def observed_examples(at: datetime) -> tuple[tuple[Provider, bytes], ...]:
    """What is no longer listed, as seen at this time."""
    return (
        (Provider.OVOKO, part_observed(OurPart("13", "sold", at), None, at)),
        (Provider.OVOKO, return_observed(Return("4555", "4555"), None, at)),
    )
