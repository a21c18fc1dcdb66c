"""All simulated marketplaces behind one server, and the control of their faults."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from schemas.validation import broken_rules
from worker.simulator.faults import (
    Fault,
    Faults,
    Sending,
    Whole,
    instead,
    sending,
)
from worker.simulator.marketplace import (
    Request,
    Response,
    SimulatedMarketplace,
    as_json,
)

log = structlog.get_logger(__name__)

_MOST_REQUESTS = 1_000


@dataclass(slots=True)
class Simulation:
    """A marketplace is served below its name: what is `/buyback/v2/…` here is `/v2/…` to it.

    Answered requests are listed without headers and bodies, which contain secrets and private data.
    """

    marketplaces: Mapping[str, SimulatedMarketplace]
    faults: Faults = field(default_factory=Faults)
    answered: list[dict[str, object]] = field(default_factory=list)

    async def answer(self, request: Request) -> Sending:
        name, _, rest = request.path.removeprefix("/").partition("/")
        if name == "control":
            return Whole(self._control(request, rest))
        marketplace = self.marketplaces.get(name)
        if marketplace is None:
            return Whole(as_json(404, {"title": f"try {', '.join(self.marketplaces)} or control"}))
        fault = self.faults.take(request)
        response = None if fault is None else instead(fault, request.path)
        if response is None:
            inner = Request(request.method, f"/{rest}", request.query, request.headers, request.body)
            response = await marketplace.handle(inner)
        self._note(request, response, fault)
        return sending(fault, response)

    def _note(self, request: Request, response: Response, fault: Fault | None) -> None:
        entry: dict[str, object] = {
            "method": request.method,
            "path": request.path,
            "status": response.status,
            "fault": None if fault is None else fault.kind,
        }
        log.info("request.answered", **entry)
        self.answered.append(entry)
        del self.answered[:-_MOST_REQUESTS]

    def _control(self, request: Request, what: str) -> Response:
        match request.method, what:
            case "GET", "faults":
                return as_json(200, [fault.model_dump() for fault in self.faults.pending])
            case "POST", "faults":
                return self._add_fault(request.body)
            case "DELETE", "faults":
                self.faults.clear()
                return Response(204)
            case "GET", "requests":
                return as_json(200, self.answered)
            case "DELETE", "requests":
                self.answered.clear()
                return Response(204)
            case _:
                return as_json(404, {"title": "try GET, POST or DELETE /control/faults or /control/requests"})

    def _add_fault(self, body: bytes) -> Response:
        try:
            self.faults.add(Fault.model_validate_json(body))
        except ValidationError as error:
            errors = [*map(str, broken_rules(error))]
            return as_json(400, {"title": "no such fault", "errors": errors})
        return Response(204)
