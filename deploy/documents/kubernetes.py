"""The resources that each family has: one template each, filled with the family's name."""

from pathlib import Path
from string import Template

from consumers.registry import FAMILIES

_TEMPLATES = Path(__file__).with_name("templates")
_CONSUMERS = """\
# made by `make docs` from deploy/documents/templates
# One Deployment per family, so that each scales, and fails, by itself.
"""
_KEDA = """\
# made by `make docs` from deploy/documents/templates
# Consumers scale with the length of their family's own queue. The retry queues do not count: what is in them
# waits for its time, and more consumers would not shorten that. Any number of consumers ends in equal rows.
"""


def consumers() -> str:
    return _CONSUMERS + _of_each_family("consumer.yaml")


def scaled_objects() -> str:
    authentication = (_TEMPLATES / "trigger_authentication.yaml").read_text()
    return f"{_KEDA}{authentication}---\n{_of_each_family('scaled_object.yaml')}"


def _of_each_family(name: str) -> str:
    template = Template((_TEMPLATES / name).read_text())
    return "---\n".join(template.substitute(family=family) for family in FAMILIES)
