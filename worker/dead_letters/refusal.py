"""Why a command about dead letters ends without having done it."""

from worker.observability.errors import StockhookError


class Refused(StockhookError):
    """It cannot be done to this letter. The text says why."""
