"""The two documents by name."""

from collections.abc import Callable, Mapping

from worker.config.settings import Settings
from worker.tools.asyncapi.changes import changes_document
from worker.tools.asyncapi.document import Json
from worker.tools.asyncapi.topology import topology_document

DOCUMENTS: Mapping[str, Callable[[Settings], Json]] = {
    "changes": changes_document,
    "topology": topology_document,
}
