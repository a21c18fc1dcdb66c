"""Documents, help texts and messages use the glossary, and none of the expressions that it replaced."""

import ast
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from deploy.local.services import CHECKOUT

# What to write instead is in the comment.
BANNED = [
    r"in hand",  # in flight
    r"work(s|ed|ing)? off",  # process
    r"ladders?",  # retry schedule, retry delay, retry queue
    r"climb(s|ed|ing)?",  # retry
    r"mend(s|ed|ing)?",  # repair, fix
    r"lanes?",  # origin; of a queue: role
    r"told of",  # receive, report
    r"tells? of",  # report
    r"put to rest",  # done
    r"odd answers?",  # unexpected response
    r"gives? way",  # throttle
    r"(give|gives|given|gave) back",  # requeue
    r"in vain",  # void
    r"in doubt",  # outcome unknown
    r"careful mode",  # isolation mode
    r"killers?",  # poison message
    r"crash points?",  # failpoint
    r"keepers?",  # dead letter archiver
    r"deliverers?",  # webhook dispatcher
    r"forecasts?",  # dry run
]
# A dot before the word is the suffix of a file that the spool leaves: `.mended`.
PATTERN = re.compile(rf"(?<![.\w])({'|'.join(BANNED)})(?!\w)", re.IGNORECASE)

DOCUMENTS = ("*.md", "deploy/*.yml", "deploy/*.yaml", "deploy/*.json", "deploy/*.conf")
MODULES = ("worker/*.py", "consumers/*.py", "schemas/*.py", "deploy/*.py")
# What was decided earlier keeps its words.
EXEMPT = ("CHANGELOG.md", "tests/*")


def texts() -> Iterator[tuple[str, str]]:
    """Whole documents, and the docstrings and string literals of modules, each with where it is."""
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = CHECKOUT / name
        if any(fnmatch(name, pattern) for pattern in EXEMPT) or not path.is_file():
            continue
        if any(fnmatch(name, pattern) for pattern in DOCUMENTS):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                yield f"{name}:{number}", line
        elif any(fnmatch(name, pattern) for pattern in MODULES):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{name}:{node.lineno}", node.value


def found_in(text: str) -> list[str]:
    return [match[0] for match in PATTERN.finditer(text)]


def test_no_text_has_a_banned_expression() -> None:
    found = [
        f"{where}: {', '.join(expressions)}" for where, text in texts() if (expressions := found_in(text))
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["It is in hand.", "`dead mend 13`", "by lane", "It WORKS OFF the queue"])
def test_a_banned_expression_is_found(text: str) -> None:
    assert found_in(text)


@pytest.mark.parametrize("text", ["amendment", "spool.sqlite3.mended", "planes", "climbing_rate_x"])
def test_a_part_of_another_word_is_not_found(text: str) -> None:
    assert not found_in(text)
