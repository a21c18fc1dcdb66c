"""How a call of Ovoko's API can fail."""


class OvokoFailed(Exception):
    """A call came to nothing. The text says which call, and why; it holds no credential."""


class OvokoUnavailable(OvokoFailed):
    """No answer, or "not now", also after the last attempt: the same again may well succeed."""


class OvokoRefused(OvokoFailed):
    """Understood and refused, for example for the credentials: the same again will fail again."""


class OvokoAnsweredOddly(OvokoFailed):
    """An answer that the documents do not have: too large, elsewhere, no JSON, of another shape."""
