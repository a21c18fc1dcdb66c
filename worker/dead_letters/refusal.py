"""Why a command about dead letters ends without having done it."""


class WrongUsage(Exception):
    """The options do not fit together. The text says which."""


class Refused(Exception):
    """It cannot be done to this letter. The text says why."""
