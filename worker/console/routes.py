"""Every screen and every action of the console, each with the role that it needs.

This table is the only place that grants access: the application makes the routes from it. Public are only
the sign-in page, the static files and `/livez`.
"""

from worker.config.console_accounts import Role
from worker.console.contract import Action, Screen
from worker.console.screens import actions, changes, family, overview

SCREENS: tuple[Screen, ...] = (
    Screen("/overview", Role.READER, "overview.html", overview.view, label="Overview", is_live=True),
    Screen("/families/{family}", Role.READER, "family.html", family.view, is_live=True),
    Screen("/changes", Role.READER, "changes.html", changes.view, label="Changes", is_live=True),
    Screen("/actions", Role.READER, "actions.html", actions.view, label="Actions"),
    Screen("/actions/{action_id}", Role.READER, "action.html", actions.one),
)

ACTIONS: tuple[Action, ...] = (
    Action("/changes/{name}/test", Role.OPERATOR, changes.test),
    Action("/actions/{action_id}/retry", Role.OPERATOR, actions.retry),
    Action("/actions/{action_id}/close", Role.OPERATOR, actions.close),
)
