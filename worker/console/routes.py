"""Every screen, action and export of the console, each with the role that it needs.

This table is the only place that grants access: the application makes the routes from it. Public are only
the sign-in page, the static files and `/livez`.
"""

from worker.config.console_accounts import Role
from worker.console.contract import Action, Export, Screen
from worker.console.screens import audit_trail, doctor, family, overview, refusals

SCREENS: tuple[Screen, ...] = (
    Screen("/overview", Role.READER, "overview.html", overview.view, label="Overview", is_live=True),
    Screen("/families/{family}", Role.READER, "family.html", family.view, is_live=True),
    Screen("/refusals", Role.READER, "refusals.html", refusals.view, label="Refusals", is_live=True),
    Screen("/doctor", Role.READER, "doctor.html", doctor.view, label="Doctor"),
    Screen("/audit-trail", Role.READER, "audit_trail.html", audit_trail.view, label="Audit trail"),
)

ACTIONS: tuple[Action, ...] = (
    Action("/families/{family}/pause", Role.OPERATOR, family.pause),
    Action("/families/{family}/resume", Role.OPERATOR, family.resume),
)

EXPORTS: tuple[Export, ...] = (
    Export("/audit-trail.csv", Role.READER, "text/csv; charset=utf-8", audit_trail.lines),
)
