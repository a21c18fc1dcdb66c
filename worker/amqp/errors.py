"""Errors of the broker, and the translation of the client library's errors into them."""

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

from worker.amqp.tap import MessageReturned
from worker.amqp.transport import ClosedByBroker
from worker.observability.errors import StockhookError, refused_certificate, safe_summary
from worker.observability.exit_codes import MISCONFIGURED, UNAVAILABLE
from worker.observability.inert_text import visible


class BrokerUnavailable(StockhookError):
    """No connection, or no confirm in time. A message that was being published may have arrived."""

    exit_code = UNAVAILABLE

    @property
    def sentence(self) -> str:
        return f"cannot reach the broker ({self}): see STOCKHOOK_AMQP_URL"


class Unroutable(StockhookError):
    """The broker reports that no queue accepted the message: it is not stored."""


class TopologyMismatch(StockhookError):
    """A queue or exchange has other arguments, or is missing and we may not declare it. The text names it."""

    exit_code = MISCONFIGURED


class BrokerRefused(BrokerUnavailable):
    """The broker refused the user, the virtual host or a permission. `answer` is the broker's."""

    exit_code = MISCONFIGURED

    def __init__(self, answer: str, remedy: str) -> None:
        super().__init__(f"{answer}: {remedy}")
        self.answer = answer
        self.remedy = remedy

    @property
    def sentence(self) -> str:
        return f"the broker refused: {self}"


@contextmanager
def only_own_cancellation() -> Iterator[None]:
    """Raise BrokerUnavailable if the client library cancels a wait.

    It does so when heartbeats are missed, which looks like a cancellation of our task. A cancellation of the
    task itself passes through.
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

    When its reader ends, the library raises the reader's error in every call that waits.
    """
    try:
        with only_own_cancellation():
            yield
    except (BrokerUnavailable, TopologyMismatch):
        raise
    except MessageReturned as error:
        raise Unroutable from error
    except ClosedByBroker as error:
        raise refused_connection(str(error)) from error
    except AuthenticationError as error:
        raise BrokerRefused(
            "it does not offer the authentication mechanism PLAIN", "enable it (auth_mechanisms)"
        ) from error
    except (ConnectionNotAllowed, ChannelAccessRefused) as error:
        remedy = "`stockhook grants rabbitmq` prints the permissions that each user needs"
        raise BrokerRefused(_bounded(str(error)), remedy) from error
    except (ConnectionClosed, ChannelClosed) as error:
        raise BrokerUnavailable(_bounded(" ".join(map(str, error.args)))) from error
    except TimeoutError as error:
        raise BrokerUnavailable("no answer in time") from error
    except Exception as error:
        raise BrokerUnavailable(
            refused_certificate(error) or _unreachable(error) or safe_summary(error)
        ) from error


def refused_connection(answer: str) -> BrokerUnavailable:
    """The error for a connection that the broker closes while it is being opened, from its code and text."""
    answer = _bounded(answer)
    text = answer.lower()
    if "limit" in text:
        return BrokerUnavailable(
            f"{answer}: close connections, or raise the limit (`rabbitmqctl set_vhost_limits`)"
        )
    if "vhost" in text and "down" in text:
        return BrokerUnavailable(f"{answer}: start it (`rabbitmqctl restart_vhost`)")
    if answer.startswith("403"):
        return BrokerRefused(answer, "correct user or password in STOCKHOOK_AMQP_URL, or create the user")
    if "vhost" in text and "not found" in text:
        remedy = "correct the virtual host at the end of STOCKHOOK_AMQP_URL, or create it"
        return BrokerRefused(answer, f"{remedy} (`rabbitmqctl add_vhost`)")
    if "vhost" in text and "refused" in text:
        remedy = "give the user permissions there: `stockhook grants rabbitmq` prints the commands"
        return BrokerRefused(answer, remedy)
    if answer.startswith("530"):
        return BrokerRefused(answer, "see the broker's log")
    return BrokerUnavailable(f"{answer}: see the broker's log")


def _bounded(answer: str) -> str:
    """A broker's text, which neither fills a log nor steers a terminal."""
    return visible(answer)[:300]


def _unreachable(error: Exception) -> str | None:
    """Why there is no connection, in the system's terms: `Connection refused`."""
    cause = error.__cause__ if isinstance(error, AMQPConnectionError) else error
    if not isinstance(cause, OSError):
        return None
    if cause.errno and not isinstance(cause, socket.gaierror):
        return os.strerror(cause.errno)
    return _bounded(cause.strerror or type(cause).__name__)
