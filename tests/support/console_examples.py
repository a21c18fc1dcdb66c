"""Addresses of each screen of the console, for everything that opens all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consumers.registry import FAMILIES
from worker.console.routes import SCREENS


@dataclass(frozen=True, slots=True)
class Ids:
    """What exists in a system whose screens are opened; `letters` has one dead letter per origin."""

    part: str
    order: str
    returned: str
    buyback_order: str
    event_id: str
    letters: Sequence[int]
    actions: Sequence[str]


# By the path of a screen. A screen without parameters needs no entry, unless it has filters.
EXAMPLES: Mapping[str, Callable[[Ids], Sequence[str]]] = {
    "/families/{family}": lambda _: [f"/families/{family}" for family in FAMILIES],
}


def addresses(path: str, ids: Ids) -> Sequence[str]:
    """Raises: KeyError: The screen has parameters, and no example."""
    if path not in EXAMPLES and "{" not in path:
        return [path]
    return EXAMPLES[path](ids)


def all_addresses(ids: Ids) -> list[str]:
    """The first address of each screen, then the others."""
    listed = [addresses(screen.path, ids) for screen in SCREENS]
    return [found[0] for found in listed] + [address for found in listed for address in found[1:]]
