"""What makes each generated file."""

from collections.abc import Callable
from pathlib import Path

from deploy.documents.changes import changes_page
from deploy.documents.events import events_page
from deploy.documents.kubernetes import consumers, scaled_objects
from deploy.documents.metrics import metrics_page

_FOLDER = Path(__file__).parents[1]

PAGES: dict[Path, Callable[[], str]] = {
    _FOLDER / "METRICS.md": metrics_page,
    _FOLDER / "EVENTS.md": events_page,
    _FOLDER / "CHANGES.md": changes_page,
    _FOLDER / "kubernetes" / "40-consumers.yaml": consumers,
    _FOLDER / "kubernetes" / "60-keda.yaml": scaled_objects,
}
