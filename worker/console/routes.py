"""Every screen and every action of the console, each with the role that it needs.

This table is the only place that grants access: the application makes the routes from it. Public are only
the sign-in page, the static files and `/livez`.
"""

from worker.config.console_accounts import Role
from worker.console.contract import Action, Screen
from worker.console.screens import family, overview

SCREENS: tuple[Screen, ...] = (
    Screen("/overview", Role.READER, "overview.html", overview.view, label="Overview", is_live=True),
    Screen("/families/{family}", Role.READER, "family.html", family.view, is_live=True),
)

ACTIONS: tuple[Action, ...] = (
    Action("/families/{family}/pause", Role.OPERATOR, family.pause),
    Action("/families/{family}/resume", Role.OPERATOR, family.resume),
)
