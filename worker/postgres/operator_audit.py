"""The table `operator_audit`: what operators did, by command or in the console."""

from consumers.family import Connection

RECORD = """
INSERT INTO operator_audit (who, action, subject, reason)
VALUES ($1, $2, $3, $4)
"""


async def record(connection: Connection, who: str, action: str, subject: str, reason: str | None) -> None:
    """In the transaction of what was done, so that there is neither without the other."""
    await connection.execute(RECORD, who, action, subject, reason)
