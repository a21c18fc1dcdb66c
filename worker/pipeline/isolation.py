"""Which deliveries may have killed their consumer, and are therefore handled alone.

A delivery that was lost twice may have ended its consumer both times, with innocent neighbours. Before it is
handled alone, its try is committed (worker/postgres/poison.py).

One loss is no reason for suspicion: a broker node that dies, a failover or a restart of a consumer returns
whole windows of deliveries, and to handle each of them alone would take minutes.
"""

from worker.amqp.tap import Delivery

# Added by quorum queues: how often the message was delivered and came back because its consumer was lost.
LOSSES_HEADER = "x-delivery-count"
LOSSES = 2


def is_suspect(delivery: Delivery) -> bool:
    losses = delivery.headers.get(LOSSES_HEADER)
    return delivery.redelivered and isinstance(losses, int) and losses >= LOSSES
