"""Every screen and every action of the console, each with the role that it needs.

This table is the only place that grants access: the application makes the routes from it. Public are only
the sign-in page, the static files and `/livez`.
"""

from functools import partial

from worker.config.console_accounts import Role
from worker.console.contract import Action, Export, Screen
from worker.console.screens import (
    actions,
    asyncapi,
    audit_trail,
    changes,
    dead_letter,
    dead_letters,
    doctor,
    entity,
    family,
    jobs,
    overview,
    refusals,
    search,
)
from worker.console.screens import dead_letter_actions as letter
from worker.tools.asyncapi.documents import DOCUMENTS

SCREENS: tuple[Screen, ...] = (
    Screen("/overview", Role.READER, "overview.html", overview.view, label="Overview", is_live=True),
    Screen("/families/{family}", Role.READER, "family.html", family.view, is_live=True),
    Screen("/dead-letters", Role.READER, "dead_letters.html", dead_letters.view, label="Dead letters"),
    Screen("/dead-letters/{dead_letter_id}", Role.READER, "dead_letter.html", dead_letter.view, is_live=True),
    Screen(
        "/dead-letters/{dead_letter_id}/dry-run",
        Role.READER,
        "dead_letter_dry_run.html",
        dead_letter.dry_run,
    ),
    Screen("/jobs", Role.READER, "jobs.html", jobs.view_list, label="Jobs", is_live=True),
    Screen("/jobs/new", Role.READER, "job_new.html", jobs.view_new),
    Screen("/jobs/{job_id}", Role.READER, "job.html", jobs.view, is_live=True),
    Screen("/search", Role.READER, "search.html", search.view),
    Screen("/entities/{family}/{entity}", Role.READER, "entity.html", entity.view),
    Screen("/changes", Role.READER, "changes.html", changes.view, label="Changes", is_live=True),
    Screen("/actions", Role.READER, "actions.html", actions.view, label="Actions"),
    Screen("/actions/{action_id}", Role.READER, "action.html", actions.one),
    Screen("/refusals", Role.READER, "refusals.html", refusals.view, label="Refusals", is_live=True),
    Screen("/doctor", Role.READER, "doctor.html", doctor.view, label="Doctor"),
    Screen("/audit-trail", Role.READER, "audit_trail.html", audit_trail.view, label="Audit trail"),
    Screen("/asyncapi", Role.READER, "asyncapi.html", asyncapi.view),
)

ACTIONS: tuple[Action, ...] = (
    Action("/families/{family}/pause", Role.OPERATOR, family.pause),
    Action("/families/{family}/resume", Role.OPERATOR, family.resume),
    Action("/dead-letters/{dead_letter_id}/repair", Role.OPERATOR, letter.repair),
    Action("/dead-letters/{dead_letter_id}/replay", Role.OPERATOR, letter.replay_letter),
    Action("/dead-letters/{dead_letter_id}/discard", Role.OPERATOR, letter.discard),
    Action("/dead-letters/{dead_letter_id}/reveal", Role.REVEALER, letter.reveal),
    # An edit shows personal data, so it needs that role. To replay the edited letter needs the other one.
    Action("/dead-letters/{dead_letter_id}/edit", Role.REVEALER, letter.open_editor),
    Action("/dead-letters/{dead_letter_id}/edit/check", Role.REVEALER, letter.check_edit),
    Action("/dead-letters/{dead_letter_id}/edit/save", Role.REVEALER, letter.save_edit),
    Action("/jobs/dry-run", Role.OPERATOR, jobs.start_dry_run),
    Action("/jobs/replay", Role.OPERATOR, jobs.start_replay),
    Action("/jobs/discard", Role.OPERATOR, jobs.start_discard),
    Action("/jobs/{job_id}/cancel", Role.OPERATOR, jobs.cancel),
    Action("/jobs/{job_id}/resume", Role.OPERATOR, jobs.resume),
    Action("/changes/{name}/test", Role.OPERATOR, changes.test),
    Action("/actions/{action_id}/retry", Role.OPERATOR, actions.retry),
    Action("/actions/{action_id}/close", Role.OPERATOR, actions.close),
)

EXPORTS: tuple[Export, ...] = (
    *(
        Export(f"/asyncapi/{name}.json", Role.READER, "application/json", partial(asyncapi.document, name))
        for name in DOCUMENTS
    ),
    Export("/audit-trail.csv", Role.READER, "text/csv; charset=utf-8", audit_trail.lines),
)
