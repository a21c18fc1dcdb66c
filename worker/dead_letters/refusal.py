"""Why a command about dead letters or unhandled events ends without having done it."""

from worker.observability.errors import StockhookError


class CommandRefused(StockhookError):
    """It cannot be done to this dead letter or unhandled event. The text says why."""
