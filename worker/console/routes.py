"""Every screen and every action of the console, each with the role that it needs.

This table is the only place that grants access: the application makes the routes from it. Public are only
the sign-in page, the static files and `/livez`.
"""

from worker.config.console_accounts import Role
from worker.console.contract import Action, Screen
from worker.console.screens import dead_letters, family, jobs, overview

SCREENS: tuple[Screen, ...] = (
    Screen("/overview", Role.READER, "overview.html", overview.view, label="Overview", is_live=True),
    Screen("/families/{family}", Role.READER, "family.html", family.view, is_live=True),
    Screen("/dead-letters", Role.READER, "dead_letters.html", dead_letters.view, label="Dead letters"),
    Screen("/jobs", Role.READER, "jobs.html", jobs.view_list, is_live=True),
    Screen("/jobs/new", Role.READER, "job_new.html", jobs.view_new),
    Screen("/jobs/{job_id}", Role.READER, "job.html", jobs.view, is_live=True),
)

ACTIONS: tuple[Action, ...] = (
    Action("/jobs/dry-run", Role.OPERATOR, jobs.start_dry_run),
    Action("/jobs/replay", Role.OPERATOR, jobs.start_replay),
    Action("/jobs/discard", Role.OPERATOR, jobs.start_discard),
    Action("/jobs/{job_id}/cancel", Role.OPERATOR, jobs.cancel),
    Action("/jobs/{job_id}/resume", Role.OPERATOR, jobs.resume),
)
