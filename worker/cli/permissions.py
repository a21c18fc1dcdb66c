"""`stockhook grants`."""

from typing import Literal

from worker.cli.context import Json
from worker.cli.terminal import say, say_json
from worker.tools.permissions import (
    ROLES,
    broker_commands,
    broker_definitions,
    broker_users,
    role_as_json,
    roles_sql,
)


def grants(
    service: Literal["rabbitmq", "postgres"],
    *,
    vhost: str = "stockhook",
    json: Json = False,
) -> None:
    """Print the commands that grant each process the minimum of permissions. Changes nothing.

    Parameters
    ----------
    service
        rabbitmq: commands for a shell, some for after `stockhook topology`; with --json, permissions and
        a policy for `rabbitmqctl import_definitions`.
        postgres: SQL for a superuser; what tables need, `stockhook migrate` grants.
    vhost
        RabbitMQ's virtual host.
    """
    if service == "rabbitmq" and json:
        say_json(broker_definitions(broker_users(), vhost), indent=True)
    elif service == "rabbitmq":
        for command in broker_commands(broker_users(), vhost):
            say(command)
    elif json:
        say_json([role_as_json(role) for role in ROLES], indent=True)
    else:
        say(roles_sql().removesuffix("\n"), keep="\n")
