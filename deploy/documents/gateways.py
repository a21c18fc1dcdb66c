"""The signature schemes that STOCKHOOK_GATEWAY names, in the grammar of STOCKHOOK_GATEWAY_SIGNATURE."""

import json

from worker.config.gateway import PRESETS


def presets_table() -> str:
    """One row per preset; members that the row leaves out have their defaults."""
    rows = [f"| `{name}` | `{json.dumps(scheme)}` |" for name, scheme in PRESETS.items()]
    return "\n".join(["| preset | scheme |", "| --- | --- |", *rows, ""])
