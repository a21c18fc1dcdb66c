"""Log lines about refused requests, with their sender: at most one per kind and interval."""

from dataclasses import dataclass, field

import structlog

from worker.ingest.exchange import Refused, Request
from worker.ingest.log_limit import REFUSAL_LOG_SECONDS, UNKNOWN_PATH_LOG_SECONDS, LogLimit
from worker.intake.gateway import inert

log = structlog.get_logger(__name__)

# The maximum length of a foreign text in a log line.
LONGEST_LOGGED = 200


@dataclass(slots=True)
class RequestLog:
    _refusals: LogLimit = field(default_factory=lambda: LogLimit(REFUSAL_LOG_SECONDS))
    _unknown_paths: LogLimit = field(default_factory=lambda: LogLimit(UNKNOWN_PATH_LOG_SECONDS))

    def failed(self, request: Request) -> None:
        """Call it while the exception is handled."""
        log.exception("request.failed", path=inert(request.path, LONGEST_LOGGED))

    def refused(self, marketplace: str, request: Request, refusal: Refused) -> None:
        unlogged = self._refusals.unlogged(f"{marketplace} {refusal.result}")
        if unlogged is not None:
            log.warning(
                "request.refused",
                provider=marketplace,
                result=refusal.result,
                reason=str(refusal),
                **_sender(request),
                unlogged_before=unlogged,
            )

    def unknown_path(self, request: Request) -> None:
        """A webhook that was sent to a wrong address."""
        unlogged = self._unknown_paths.unlogged()
        if unlogged is not None:
            log.warning(
                "path.unknown",
                path=inert(request.path, LONGEST_LOGGED),
                method=inert(request.method, LONGEST_LOGGED),
                **_sender(request),
                unlogged_before=unlogged,
            )


def _sender(request: Request) -> dict[str, str]:
    sender = {"client": request.client}
    if request_id := request.headers.get("x-request-id"):
        sender["request_id"] = inert(request_id, LONGEST_LOGGED)
    return sender
