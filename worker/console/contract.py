"""What a screen and an action are. Adding one takes an entry in routes.py, a function, and a template."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.amqp.connection import Broker
from worker.config.console_accounts import Role
from worker.config.settings import Settings
from worker.console.poller import Poller
from worker.console.sessions import User
from worker.console.shared import Shared
from worker.postgres.pool import Database


@dataclass(frozen=True, slots=True)
class Console:
    """What screens and actions work with."""

    settings: Settings
    broker: Broker
    database: Database
    poller: Poller
    shared: Shared = field(default_factory=Shared)


# The parts of the path, and the query.
Parameters = Mapping[str, str]


class NotThere(Exception):
    """There is nothing at this address any more, or never was. The text says what, in a sentence."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The page is at another path of the console; the `.json` twin shows the view."""

    path: str
    view: Any


@dataclass(frozen=True, slots=True)
class Screen:
    """A page, its `.json` twin, and, if it is live, a stream of its region that changes.

    `view` makes the data of all three: a dataclass. It knows no user, so that viewers can share it. The view
    of a screen that is not live may also be `Elsewhere`.
    """

    path: str
    role: Role
    template: str
    view: Callable[[Console, Parameters], Awaitable[Any]]
    """Raises: NotThere."""
    label: str = ""
    """In the navigation; empty if the screen is not in it."""
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """A file, sent part by part as `lines` makes it: only a part is in memory."""

    path: str
    role: Role
    media_type: str
    lines: Callable[[Console, Parameters], AsyncIterator[str]]
    """Raises, before the first part: NotThere, Refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who requests an action, and the fields of the form."""

    user: User
    parameters: Parameters
    form: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Done:
    """What the user reads next: a sentence, on this page or on the one that the form was on."""

    sentence: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A page as the answer to the POST itself: what it shows must have no address."""

    template: str
    view: Any


@dataclass(frozen=True, slots=True)
class Action:
    """A change, by POST alone. `perform` uses the functions of the commands, with the user's name.

    A `Refused` that it raises is shown on the page that the form was on.
    """

    path: str
    role: Role
    perform: Callable[[Console, Request], Awaitable[Done | Shown]]
