"""Plant known bugs, each in a copy of the checkout; its test must fail."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.table import TABLE, Mutant
from tests.support.checkout import copy_checkout

# Mutants are tested side by side in this many copies: most tests wait most of the time.
COPIES = 2


def passes(folder: Path, tests: Iterable[str]) -> bool:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        check=False,
    )
    # 1 is pytest's code for failed tests; any other means that they did not run.
    if run.returncode not in (0, 1):
        raise RuntimeError(f"the tests did not run:\n{run.stdout.decode()[-2000:]}")
    return run.returncode == 0


def is_caught(folder: Path, mutant: Mutant) -> bool:
    """Whether the mutant's test fails with the bug."""
    path = folder / mutant.file
    original = path.read_text()
    path.write_text(original.replace(mutant.original, mutant.planted))
    try:
        return not passes(folder, [mutant.test])
    finally:
        path.write_text(original)


def chosen_mutants(arguments: list[str]) -> list[Mutant]:
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="names of bugs in tests/mutants/table.py (default: all)"
    )
    names = parser.parse_args(arguments).names
    if unknown := set(names) - {mutant.name for mutant in TABLE}:
        parser.error(f"no such bug in tests/mutants/table.py: {', '.join(sorted(unknown))}")
    return [mutant for mutant in TABLE if not names or mutant.name in names]


def main(chosen: list[Mutant]) -> int:
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(COPIES) as threads:
        free: SimpleQueue[Path] = SimpleQueue()
        for number in range(COPIES):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            copy_checkout(folder)
            free.put(folder)
        for path in (Path(temporary), *Path(temporary).iterdir()):
            path.chmod(0o755)

        def judge(mutant: Mutant) -> bool:
            folder = free.get()
            try:
                caught = is_caught(folder, mutant)
            finally:
                free.put(folder)
            print(f"{'caught ' if caught else 'ESCAPED'}  {mutant.name:35} {mutant.test}", flush=True)
            return caught

        if not passes(folder, sorted({mutant.test for mutant in chosen})):
            print("these tests fail even without a planted bug")
            return 1
        caught = sum(threads.map(judge, chosen))
    print(f"{caught} caught, {len(chosen) - caught} escaped")
    return 1 if caught < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main(chosen_mutants(sys.argv[1:])))
