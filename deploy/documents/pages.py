"""Which page is made by what."""

from collections.abc import Callable
from pathlib import Path

from deploy.documents.changes import changes_page
from deploy.documents.events import events_page
from deploy.documents.metrics import metrics_page

_FOLDER = Path(__file__).parents[1]

PAGES: dict[Path, Callable[[], str]] = {
    _FOLDER / "METRICS.md": metrics_page,
    _FOLDER / "EVENTS.md": events_page,
    _FOLDER / "CHANGES.md": changes_page,
}
