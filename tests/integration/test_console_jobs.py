"""The console's list of jobs, with a real database."""

import asyncio

from tests.support.console import browser, console_of, sign_in, users
from tests.support.stack import Stack
from worker.console.application import application
from worker.dead_letters import bulk_jobs

# Of each kind, an ended job, with what its tally counts and lists.
JOBS = """
INSERT INTO bulk_jobs (kind, selection, last_id, matched, who, state, total, tally)
VALUES
    ('dry_run', '{}', 9, 7, 'anna', 'done', 7,
        '{"handled": 7, "outcomes": {"applied": {"letters": 7, "examples": [1, 2]}}}'),
    ('replay', '{}', 9, 7, 'anna', 'done', 7,
        '{"replayed": 4, "not_replayed": 2, "came_back": 1, "returned": [3], "unready": [[5, "no body"]]}'),
    ('discard', '{}', 9, 7, 'anna', 'cancelled', 7, '{"discarded": 5}')
"""


async def test_the_list_of_jobs_counts_their_letters_without_what_their_tallies_list(stack: Stack) -> None:
    await stack.execute(JOBS)
    stack.environment["STOCKHOOK_CONSOLE_USERS"] = users(rita="reader")
    stopping = asyncio.Event()
    console = console_of(stack.settings, stopping)
    async with browser(application(console, stopping)) as client:
        await sign_in(client, "rita")
        listed = (await client.get("/jobs.json")).json()["jobs"]
        page = (await client.get("/jobs")).text
        replay = (await client.get(f"/jobs/{listed[1]['job_id']}.json")).json()
    async with console.database.connection() as connection:
        read = await bulk_jobs.newest(connection, before=2**31, limit=10)
    await console.database.close()

    assert [(job["title"], job["handled"], job["percent"]) for job in listed] == [
        ("Discard", 5, 71),
        ("Replay", 6, 85),
        ("Dry run", 7, 100),
    ]
    assert "6 of 7" in page
    assert [dict(job.tally) for job in read] == [
        {"discarded": 5},
        {"replayed": 4, "not_replayed": 2, "came_back": 1},
        {"handled": 7},
    ]
    assert replay["returned"] == [3]
    assert replay["unready"] == [{"dead_letter_id": 5, "reason": "no body"}]
