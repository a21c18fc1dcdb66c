"""Only modules of a marketplace, and lists of all, name a marketplace."""

import re
from fnmatch import fnmatch
from pathlib import Path

from schemas.registry import Provider

CHECKOUT = Path(__file__).parents[2]

# Samples of random numbers, metrics and traces name no marketplace, even if one is called Sample.
NAMES = re.compile(
    rf"(?<!rng\.)(?<!family\.)(?<!should_)(?<!and_)(?:{'|'.join(Provider)})(?!d|r)", re.IGNORECASE
)

# Modules of one marketplace.
OF_EACH = tuple(
    path for name in Provider for path in (f"schemas/{name}.py", f"worker/marketplaces/{name}/*.py")
)

# Modules of one marketplace, or of several.
OWN = (
    *OF_EACH,
    "schemas/ovoko_api.py",
    "schemas/actions.py",
    "consumers/*/*.py",
    "worker/actions/ovoko.py",
    "worker/actions/buyback.py",
    "worker/tools/reconcile/ovoko.py",
    "worker/simulator/*.py",
    "worker/cli/actions.py",
    "worker/cli/buyback.py",
    "worker/cli/enrich.py",
    "worker/cli/payment_details.py",
    "worker/cli/reconcile.py",
    "worker/cli/send.py",
    "worker/cli/simulate.py",
)

# Lists of all marketplaces, kinds of actions, settings, states, commands.
REGISTRIES = (
    "schemas/registry.py",
    "schemas/changes.py",
    "consumers/registry.py",
    "worker/marketplaces/registry.py",
    "worker/actions/registry.py",
    "worker/tools/reconcile/observations.py",
    "worker/config/settings.py",
    "worker/cli/app.py",
)


def naming() -> list[str]:
    """The modules and templates that name a marketplace."""
    modules = (
        path
        for pattern in ("schemas/**/*.py", "consumers/**/*.py", "worker/**/*.py", "worker/console/**/*.html")
        for path in CHECKOUT.glob(pattern)
    )
    return [str(path.relative_to(CHECKOUT)) for path in modules if NAMES.search(path.read_text())]


def test_generic_modules_name_no_marketplace() -> None:
    exceptions = (*OWN, *REGISTRIES)

    assert [name for name in naming() if not any(fnmatch(name, each) for each in exceptions)] == []


def test_each_exception_is_needed() -> None:
    names = naming()

    assert [each for each in (*OWN, *REGISTRIES) if not any(fnmatch(one, each) for one in names)] == []
