"""`stockhook pause` and `stockhook resume`: whether a family's events are applied."""

from dataclasses import asdict

from worker.cli.context import Json, WrongUsage, open_database, print_json
from worker.cli.families import FamilyName
from worker.cli.startup import load_context
from worker.cli.terminal import say
from worker.dead_letters.audit_trail import who
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.postgres import pauses
from worker.postgres.pauses import Pause


def pause(family: FamilyName, /, *, reason: str, json: Json = False) -> None:
    """Pause a family: no event is taken from its queue until `stockhook resume`.

    Every consumer process obeys within 2 s, also after a restart. Events wait in the queue, and none loses an
    attempt. Other families, retry queues, dead letters, actions and the change feed go on. Exits 1 if the
    family is already paused, and says by whom and why.

    Parameters
    ----------
    family
        Whose events to leave in the queue.
    reason
        Why, for those who see the pause.
    """
    if not reason.strip():
        raise WrongUsage("give a reason that is not empty: --reason TEXT")
    settings = load_context("pause")

    async def work() -> Pause:
        async with open_database(settings, "pause", 1) as database:
            return await pauses.pause(database, family, visible(reason.strip()), who())

    made = run_loop(work())
    if json:
        print_json({"family": family, **asdict(made)})
    else:
        say(f"{family} is {made}")
        say(f"Every consumer process obeys within 2 s. To end the pause: stockhook resume {family}")


def resume(family: FamilyName, /, *, reason: str | None = None, json: Json = False) -> None:
    """End the pause of a family; its consumers continue within 2 s.

    Exits 0 also if the family is not paused.

    Parameters
    ----------
    family
        Whose events to apply again.
    reason
        Why, for the record.
    """
    settings = load_context("resume")
    text = visible((reason or "").strip()) or None

    async def work() -> Pause | None:
        async with open_database(settings, "resume", 1) as database:
            return await pauses.resume(database, family, text, who())

    ended = run_loop(work())
    if json:
        print_json({"family": family, "ended": ended and asdict(ended)})
    elif ended is None:
        say(f"{family} is not paused. Nothing was changed")
    else:
        say(f"{family} is resumed. It was {ended}")
