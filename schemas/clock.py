"""How far a sender's clock may be ahead of ours."""

from datetime import timedelta

# An event that happened later than its reception by more than this has an implausible timestamp.
TOLERANCE = timedelta(hours=1)
