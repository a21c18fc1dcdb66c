"""Every screen and every action of the console, each with the role that it needs.

This table is the only place that grants access: the application makes the routes from it. Public are only
the sign-in page, the static files and `/livez`.
"""

from worker.config.console_accounts import Role
from worker.console.contract import Action, Screen
from worker.console.screens import dead_letter, family, overview
from worker.console.screens import dead_letter_actions as letter

SCREENS: tuple[Screen, ...] = (
    Screen("/overview", Role.READER, "overview.html", overview.view, label="Overview", is_live=True),
    Screen("/families/{family}", Role.READER, "family.html", family.view, is_live=True),
    Screen("/dead-letters/{dead_letter_id}", Role.READER, "dead_letter.html", dead_letter.view, is_live=True),
    Screen(
        "/dead-letters/{dead_letter_id}/dry-run",
        Role.READER,
        "dead_letter_dry_run.html",
        dead_letter.dry_run,
    ),
)

ACTIONS: tuple[Action, ...] = (
    Action("/dead-letters/{dead_letter_id}/repair", Role.OPERATOR, letter.repair),
    Action("/dead-letters/{dead_letter_id}/replay", Role.OPERATOR, letter.replay_letter),
    Action("/dead-letters/{dead_letter_id}/discard", Role.OPERATOR, letter.discard),
    Action("/dead-letters/{dead_letter_id}/reveal", Role.REVEALER, letter.reveal),
    # An edit shows personal data, so it needs that role. To replay the edited letter needs the other one.
    Action("/dead-letters/{dead_letter_id}/edit", Role.REVEALER, letter.open_editor),
    Action("/dead-letters/{dead_letter_id}/edit/check", Role.REVEALER, letter.check_edit),
    Action("/dead-letters/{dead_letter_id}/edit/save", Role.REVEALER, letter.save_edit),
)
