"""The change feed: its backlog per family, and its subscribers over HTTP."""

from worker.amqp.errors import BrokerUnavailable
from worker.change_feed.testing import NotSent, send_test
from worker.console.access import Refused
from worker.console.contract import Console, Done, Parameters, Request
from worker.console.feed import FeedView, feed
from worker.console.form import optional_reason


async def view(console: Console, _: Parameters) -> FeedView:
    """Raises: NoSnapshot."""
    snapshot = await console.poller.snapshot()
    return feed(snapshot, console.settings.delays, console.settings.webhook_names)


async def test(console: Console, request: Request) -> Done:
    """Send a test event to one subscriber.

    Raises:
        Refused
    """
    name, reason = request.parameters["name"], optional_reason(request.form)
    try:
        webhook_id = await send_test(
            console.broker, console.database, console.settings, name, request.user.name, reason
        )
    except NotSent as error:
        raise Refused(409, f"Nothing was sent: {error}.") from error
    except BrokerUnavailable as error:
        raise Refused(503, f"The test event may not have been sent: {error.sentence}.") from error
    return Done(f"A test event is in the queue of {name}, with the webhook-id {webhook_id}.", "/changes")
