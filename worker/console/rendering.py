"""Pages from templates. Everything that a template prints is escaped, and shows hidden characters."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from consumers.registry import FAMILIES
from schemas.trace_context import TRACE_IDS
from worker.console.addresses import entity_path
from worker.observability.inert_text import json_text, visible
from worker.tools.explain.data import repeats_the_event

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"

_TRACE_ID = re.compile(r"[0-9a-f]{32}")

# As `Job.audit_reason` writes it.
_OF_JOB = re.compile(r"job ([0-9]{1,18})(?::|$)")

UNKNOWN = "\N{EN DASH}"

# The size of a chart in units of its own; the style sheet decides how large it is shown.
CHART_WIDTH, CHART_HEIGHT = 240, 40


class Renderer:
    """The templates, with links below the base path.

    `elsewhere` has the templates of URLs of other pages, by what stands in braces in them.
    """

    def __init__(self, base_path: str, elsewhere: Mapping[str, str | None] | None = None) -> None:
        self._elsewhere = elsewhere or {}
        self._base_path = base_path
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_inert,
            # Templates change with the release alone.
            auto_reload=False,
        )
        self._environment.filters |= {
            "number": number,
            "rate": rate,
            "duration": duration,
            "bytes": bytes_text,
            "instant": instant,
            "clock": clock,
            "area": area,
            "line": line,
            "lines": lines,
            "form_text": form_text,
            "json": json_text,
            "shown": shown,
            "iso": iso,
            "repeats_the_event": repeats_the_event,
            "query": query,
            "job_in": job_in,
        }
        self._environment.globals |= {
            "path": self.path,
            "asset": self.asset,
            "entity_path": entity_path,
            "families": frozenset(FAMILIES),
            "entities": tuple(family.entity for family in FAMILIES.values()),
            "elsewhere": self.elsewhere,
            "evidence_address": self.evidence_address,
        }
        self._environment.globals["parts"] = self._environment.get_template("parts.html").module

    def path(self, path: str) -> str:
        """A path of the console as a browser requests it."""
        return self._base_path + path

    def elsewhere(self, placeholder: str, value: str) -> str:
        """The URL of a page outside of the console; empty where no setting has its template."""
        template = self._elsewhere.get(placeholder)
        return "" if template is None else template.replace(f"{{{placeholder}}}", quote(value, safe=""))

    def evidence_address(self, name: str, value: object) -> str:
        """The URL of what evidence names; empty if it is not known."""
        if name in TRACE_IDS and _TRACE_ID.fullmatch(str(value)):
            return self.elsewhere("trace_id", str(value))
        return self.elsewhere(name, str(value)) if name == "gateway_event" else ""

    def asset(self, name: str) -> str:
        """The path of a static file. It changes with the content, so that a browser may keep the file."""
        return self.path(f"/static/{name}?v={fingerprints()[name]}")

    def page(self, template: str, context: Mapping[str, Any]) -> str:
        return self._environment.get_template(template).render(context)

    def region(self, template: str, context: Mapping[str, Any]) -> str:
        """The block `live` of a template: the part of a page that changes."""
        loaded = self._environment.get_template(template)
        return "".join(loaded.blocks["live"](loaded.new_context(dict(context))))


def fingerprints() -> Mapping[str, str]:
    """Of the static files, by name."""
    return _FINGERPRINTS


_FINGERPRINTS = {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for path in sorted(STATIC.iterdir())
    if path.is_file()
}


def _inert(value: object) -> object:
    """Called for each printed value, before it is escaped. Markup comes from our own macros."""
    return value if isinstance(value, Markup) else visible(value)


def lines(text: str) -> Markup:
    """A text with its line ends, escaped and inert otherwise."""
    return escape(visible(text, keep="\n\t"))


def form_text(text: str) -> Markup:
    """The content of a text field, escaped but not changed: what is sent back must be the same text.

    A browser removes a line end at the start.
    """
    return Markup("\n") + escape(text)


def number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def query(parameters: Mapping[str, object]) -> str:
    """The query of an address; a character that UTF-8 does not have becomes a question mark."""
    return urlencode(parameters, errors="replace")


def job_in(reason: str | None) -> str | None:
    """The number of the job that a reason in the audit trail names."""
    match = _OF_JOB.match(reason or "")
    return match[1] if match else None


def rate(value: float | None) -> str:
    """Per second."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}/s" if value >= 10 or value == 0 else f"{value:,.1f}/s"


def duration(seconds: float | None) -> str:
    """In at most two units."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0:
        return f"\N{MINUS SIGN}{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 9.95:
        return f"{round(seconds, 1):g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count) or "0 s"


def bytes_text(value: int | None) -> str:
    if value is None:
        return UNKNOWN
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"


def instant(value: datetime | None) -> str:
    return UNKNOWN if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(value: datetime | None) -> str:
    return UNKNOWN if value is None else value.astimezone(UTC).strftime("%H:%M:%S UTC")


def iso(value: datetime) -> str:
    """Exact, for addresses and for inputs of the type datetime-local."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat()


def shown(value: object) -> str:
    """A value of a state or a row."""
    match value:
        case None:
            return UNKNOWN
        case bool():
            return "yes" if value else "no"
        case datetime():
            return instant(value)
        case tuple() | list():
            return ", ".join(map(shown, value)) or "none"
        case Mapping():
            return json_text(value)
        case _:
            return str(value)


def line(values: Sequence[float | None]) -> str:
    """The points of an SVG polyline over the values, from 0 to their maximum; the newest is on the right."""
    top = max((value for value in values if value is not None), default=0) or 1
    step = CHART_WIDTH / max(1, len(values) - 1)
    return " ".join(
        f"{index * step:.1f},{CHART_HEIGHT - 2 - (CHART_HEIGHT - 4) * value / top:.1f}"
        for index, value in enumerate(values)
        if value is not None
    )


def area(values: Sequence[float | None]) -> str:
    """The points of the polygon below that line."""
    points = line(values)
    if not points:
        return ""
    first, last = points.split(" ")[0].partition(",")[0], points.rsplit(" ", 1)[-1].partition(",")[0]
    return f"{first},{CHART_HEIGHT} {points} {last},{CHART_HEIGHT}"
