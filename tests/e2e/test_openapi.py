"""The OpenAPI document and the ingest agree: schemathesis generates requests from the document."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, Stack

# Excluded checks, with reasons:
LEFT_OUT = (
    # Malformed authentic bodies are accepted and quarantined by design.
    "negative_data_rejection",
    # Requests that violate the schema of a secret are refused.
    "positive_data_acceptance",
)


async def test_schemathesis_finds_nothing(stack: Stack) -> None:
    await stack.started_apart()
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{stack.url}/openapi.json",
            "--exclude-checks",
            ",".join(LEFT_OUT),
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "60",
            "--seed",
            "7",
            "--header",
            f"X-Webhook-Secret: {OVOKO_SECRET}",
        ],
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
            "SCHEMATHESIS_BUYBACK_TOKEN": BUYBACK_TOKEN,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        cwd=stack.folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert "Authentication failed" not in run.stdout
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


async def test_the_document_describes_every_documented_type(stack: Stack) -> None:
    await stack.started("ingest")
    document = json.loads((await stack.look("/openapi.json")).content)
    schemas = document["components"]["schemas"]
    paths = document["paths"]
    flat, _wrapped = paths["/webhooks/ovoko"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "anyOf"
    ]
    nested = paths["/webhooks/buyback"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert len(flat["oneOf"]) == 5
    assert len(nested["allOf"][1]["oneOf"]) == 12
    for union in (flat, nested["allOf"][1]):
        for reference in union["oneOf"]:
            assert reference["$ref"].removeprefix("#/components/schemas/") in schemas
