"""The settings that `make run` gives the product, and the file with them for other terminals."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from deploy.local.ports import choose_ports, free_port_pair
from deploy.local.secrets import write_private
from deploy.local.services import DEV, Services
from worker.config.console_accounts import PasswordHash

INGEST_PORT = 8080
OPS_PORT = 9090
CONSOLE_PORT = 8081
CONSOLE_USER = "developer"


def product_settings(
    services: Services, secrets: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """The caller's environment takes precedence."""
    given = {name: value for name, value in environment.items() if name.startswith("STOCKHOOK_") and value}
    own = {
        "STOCKHOOK_AMQP_URL": services.amqp_url,
        "STOCKHOOK_DATABASE_URL": services.database_url,
        "STOCKHOOK_INGEST_HOST": "127.0.0.1",
        "STOCKHOOK_OVOKO_SECRETS": secrets["ovoko_secret"],
        "STOCKHOOK_BUYBACK_TOKENS": secrets["buyback_token"],
        "STOCKHOOK_SEALING_KEYS": secrets["sealing_key"],
        "STOCKHOOK_SPOOL_PATH": str(DEV / "spool.sqlite3"),
    }
    if services.management_url is not None:
        own["STOCKHOOK_MANAGEMENT_URL"] = services.management_url
    return own | product_ports(given) | given


def console_settings(
    product: Mapping[str, str], secrets: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """The settings of the console beside those of the product: a free port, and one user with every role."""
    given = {name for name, value in environment.items() if name.startswith("STOCKHOOK_CONSOLE_") and value}
    ops = int(product["STOCKHOOK_OPS_PORT"])
    taken = (int(product["STOCKHOOK_INGEST_PORT"]), ops, ops + 1)
    port = choose_ports(["console"], {"console": CONSOLE_PORT}, taken=taken)["console"]
    own = {"STOCKHOOK_CONSOLE_PORT": str(port)}
    if given.isdisjoint({"STOCKHOOK_CONSOLE_USERS", "STOCKHOOK_CONSOLE_PROXY_USER_HEADER"}):
        password = PasswordHash.of(secrets["console_password"])
        own["STOCKHOOK_CONSOLE_USERS"] = f"{CONSOLE_USER}:operator+revealer:{password}"
    return {name: value for name, value in own.items() if name not in given}


def product_ports(given: Mapping[str, str]) -> dict[str, str]:
    """The well-known ports, or free ones if these are in use; operations use the next port too."""
    ops = int(given["STOCKHOOK_OPS_PORT"]) if "STOCKHOOK_OPS_PORT" in given else free_port_pair(OPS_PORT)
    ingest = choose_ports(["ingest"], {"ingest": INGEST_PORT}, taken=(ops, ops + 1))["ingest"]
    return {"STOCKHOOK_INGEST_PORT": str(ingest), "STOCKHOOK_OPS_PORT": str(ops)}


def shell_lines(settings: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(settings.items()))


def write_env(path: Path, settings: Mapping[str, str]) -> None:
    write_private(path, "# For other terminals:  . .dev/env\n" + shell_lines(settings))
