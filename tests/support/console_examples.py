"""Addresses of each screen of the console, for everything that opens all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    jobs: Sequence[int]


# By the path of a screen. A screen without parameters needs no entry, unless it has filters.
EXAMPLES: Mapping[str, Callable[[Ids], Sequence[str]]] = {
    "/families/{family}": lambda _: ["/families/inventory", "/families/returns"],
    "/dead-letters": lambda _: [
        "/dead-letters",
        "/dead-letters?origin=inventory",
        "/dead-letters?origin=quarantine",
        "/dead-letters?since=nonsense",
    ],
    "/dead-letters/{dead_letter_id}/dry-run": lambda ids: [f"/dead-letters/{ids.letters[0]}/dry-run"],
    "/jobs/{job_id}": lambda ids: [f"/jobs/{job}" for job in ids.jobs],
    "/jobs/new": lambda _: ["/jobs/new?origin=inventory"],
    "/changes": lambda _: ["/changes"],
    "/actions": lambda _: ["/actions", "/actions?state=failed"],
    "/dead-letters/{dead_letter_id}": lambda ids: [f"/dead-letters/{letter}" for letter in ids.letters],
    "/search": lambda ids: ["/search", f"/search?q={ids.part}"],
    "/entities/{family}/{entity}": lambda ids: [
        f"/entities/inventory/{ids.part}",
        f"/entities/orders/{ids.order}",
        f"/entities/returns/{ids.returned}",
        f"/entities/buybacks/{ids.buyback_order}",
    ],
    "/asyncapi": lambda _: ["/asyncapi", "/asyncapi?document=topology"],
    "/actions/{action_id}": lambda ids: [f"/actions/{action}" for action in ids.actions],
}


def addresses(path: str, ids: Ids) -> Sequence[str]:
    """Raises: KeyError: The screen has parameters, and no example."""
    if path not in EXAMPLES and "{" not in path:
        return [path]
    return EXAMPLES[path](ids)


def all_addresses(ids: Ids) -> list[str]:
    """The first address of each screen, then the others."""
    listed = [addresses(screen.path, ids) for screen in SCREENS]
    return [those[0] for those in listed] + [address for those in listed for address in those[1:]]
