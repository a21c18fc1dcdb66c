"""`stockhook asyncapi`."""

from typing import Literal

from worker.cli.context import Json, print_json
from worker.cli.terminal import say, say_json
from worker.config.settings import read_settings
from worker.tools.asyncapi.documents import DOCUMENTS


def asyncapi(document: Literal["changes", "topology"] | None = None, /, *, json: Json = False) -> None:
    """Print the AsyncAPI documents: the change feed, and everything on the broker.

    Connects to nothing. The names of retry queues, of subscribers and of the virtual host are those of the
    settings.

    Parameters
    ----------
    document
        changes: what subscribers receive, over AMQP and HTTP, as JSON. topology: exchanges, queues and
        messages on the broker, as JSON. Without it: how large both are.
    """
    settings = read_settings()
    if document is not None:
        say_json(DOCUMENTS[document](settings), indent=not json)
        return
    documents = {name: make(settings) for name, make in DOCUMENTS.items()}
    if json:
        print_json(documents)
        return
    for name, made in documents.items():
        info, parts = made["info"], made["components"]
        counts = f"{len(made['channels'])} channels, {len(parts['messages'])} messages"
        say(f"{name}: {info['title']} {info['version']}, AsyncAPI {made['asyncapi']}, {counts}")
