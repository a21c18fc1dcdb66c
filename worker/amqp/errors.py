"""What may go wrong with a broker: our errors, and how the client library's become ours."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiormq.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ConnectionClosed,
    ConnectionNotAllowed,
)

from worker.amqp.tap import Returned
from worker.amqp.transport import ClosedByBroker
from worker.observability.errors import StockhookError, refused_certificate, safe_summary
from worker.observability.exit_codes import MISCONFIGURED, UNAVAILABLE


class BrokerUnavailable(StockhookError):
    """No connection, or no confirm in time. What was being published may have arrived or not."""

    exit_code = UNAVAILABLE

    @property
    def sentence(self) -> str:
        return f"cannot reach the broker ({self}): see STOCKHOOK_AMQP_URL"


class Unroutable(StockhookError):
    """The broker confirms that no queue took the message: it is nowhere."""


class TopologyMismatch(StockhookError):
    """A queue or exchange has other arguments, or is missing and not ours to declare. The text says which."""

    exit_code = MISCONFIGURED


class BrokerRefused(BrokerUnavailable):
    """The broker refused the user, the virtual host or a permission. `said` is its answer."""

    exit_code = MISCONFIGURED

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(f"{said}: {remedy}")
        self.said = said
        self.remedy = remedy

    @property
    def sentence(self) -> str:
        return f"the broker refused: {self}"


@contextmanager
def only_own_cancellation() -> Iterator[None]:
    """Raise BrokerUnavailable where the client library cancels what waits for it.

    It does so when heartbeats are missed. To our tasks that looks as if somebody had asked them to end. A
    cancellation of the task itself passes.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerUnavailable("the connection was lost") from error


@contextmanager
def translating() -> Iterator[None]:
    """Translate the client library's errors into ours.

    When its reader ends, the library raises whatever ended it, from whatever waits.
    """
    try:
        with only_own_cancellation():
            yield
    except (BrokerUnavailable, TopologyMismatch):
        raise
    except Returned as error:
        raise Unroutable from error
    except ClosedByBroker as error:
        raise refused_connection(str(error)) from error
    except AuthenticationError as error:
        raise BrokerRefused(
            "it does not offer the authentication mechanism PLAIN", "enable it (auth_mechanisms)"
        ) from error
    except (ConnectionNotAllowed, ChannelAccessRefused) as error:
        remedy = "`stockhook grants rabbitmq` prints the permissions that each user needs"
        raise BrokerRefused(inert(str(error)), remedy) from error
    except (ConnectionClosed, ChannelClosed) as error:
        raise BrokerUnavailable(inert(" ".join(map(str, error.args)))) from error
    except TimeoutError as error:
        raise BrokerUnavailable("no answer in time") from error
    except Exception as error:
        raise BrokerUnavailable(
            refused_certificate(error) or _unreachable(error) or safe_summary(error)
        ) from error


def refused_connection(said: str) -> BrokerUnavailable:
    """The error for a connection that the broker closes while it is being opened, by its code and text."""
    said = inert(said)
    words = said.lower()
    if "limit" in words:
        return BrokerUnavailable(
            f"{said}: close connections, or raise the limit (`rabbitmqctl set_vhost_limits`)"
        )
    if "vhost" in words and "down" in words:
        return BrokerUnavailable(f"{said}: start it (`rabbitmqctl restart_vhost`)")
    if said.startswith("403"):
        return BrokerRefused(said, "correct user or password in STOCKHOOK_AMQP_URL, or create the user")
    if "vhost" in words and "not found" in words:
        remedy = "correct the virtual host at the end of STOCKHOOK_AMQP_URL, or create it"
        return BrokerRefused(said, f"{remedy} (`rabbitmqctl add_vhost`)")
    if "vhost" in words and "refused" in words:
        remedy = "give the user permissions there: `stockhook grants rabbitmq` prints the commands"
        return BrokerRefused(said, remedy)
    if said.startswith("530"):
        return BrokerRefused(said, "see the broker's log")
    return BrokerUnavailable(f"{said}: see the broker's log")


def inert(said: str) -> str:
    """A broker's text, bounded, without control characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in said[:300])


def _unreachable(error: Exception) -> str | None:
    """Why there is no connection, in the system's terms: `Connection refused`."""
    cause = error.__cause__ if isinstance(error, AMQPConnectionError) else error
    if not isinstance(cause, OSError):
        return None
    if cause.errno and not isinstance(cause, socket.gaierror):
        return os.strerror(cause.errno)
    return inert(cause.strerror or type(cause).__name__)
