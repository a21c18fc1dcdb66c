"""Documents, help texts and messages use the glossary, and none of the expressions that it replaced."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache

import pytest

from deploy.local.services import CHECKOUT

# In texts and comments. What to write instead is in the comment.
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
    r"sealers?",  # encryptor
    r"(un)?seal(s|ed)? (it|them|whole|bank details)",  # encrypt, decrypt
    r"unseal(s|ed|ing)?",  # decrypt
    r"trade-in platform",  # buyback platform
    r"deaf",  # unreachable
    r"told",  # published, reported, notified
    r"tell(s|ing)?",  # publish, report, notify; tell apart: distinguish
    r"asked",  # requested, called
    r"asking",  # requesting
    r"nobody",  # no process, no subscriber; or name what does not happen
    r"somebody",  # a person, another process
    r"odd",  # unreadable, malformed, unexpected
    r"begun",  # started
    r"(?<!circuit )breakers?",  # circuit breaker
    r"slipped",  # moved to another page
    r"everybody",  # each contestant, all processes
    r"(some|any|every)body's hands",  # in flight
    r"in turns",  # alternating, one by one
    r"so many \w+ a (second|minute)",  # this number per second
    r"(events|webhooks|messages|requests|calls|times) a (second|minute|batch|round)",  # per second
    r"at last",  # finally, in the end
    r"for ever",  # permanently, without a limit
    r"all the same",  # still
    r"time and again",  # repeatedly
    r"to be had",  # available
    r"becomes? of",  # the result, the outcome
    r"became of",  # the result, the outcome
    r"as it came",  # unchanged
    r"nothing to say",  # accepts, has no findings
    r"said of",  # stated, reported
]
# Names in code. What to write instead is in the comment.
BANNED_NAMES = {
    "asked",  # requested
    "begun",  # started, incomplete
    "chance",  # rng
    "found",  # what it is: rows, match, result
    "kept",  # stored
    "link",  # connection
    "nobody",
    "odd",  # unreadable
    "sealer",  # encryptor
    "tell",  # publish, notify, send
    "told",  # published, reported, fetched
    "unseal",  # decrypt
    "unsealed",
    "words",  # text
}
# JSON keys, members of stored bodies and arguments of libraries keep their names.
ALLOWED_NAMES = {
    "dead_kept",
    "quarantine_kept",
}
# In these files a link is a hyperlink, or connects two traces, as OpenTelemetry calls it.
ABOUT_LINKS = ("tests/docs/markdown.py", "tests/docs/test_links.py", "worker/observability/spans.py")
# A dot before the word is the suffix of a file that the spool leaves: `.mended`.
PATTERN = re.compile(rf"(?<![.\w])({'|'.join(BANNED)})(?!\w)", re.IGNORECASE)
# The changelog states the former name of a renamed command, option or label: (was `dead mend`).
OLD_NAME = re.compile(r"\(was `[^)]*\)")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

DOCUMENTS = ("*.md", "deploy/*.yml", "deploy/*.yaml", "deploy/*.json", "deploy/*.conf")
PRODUCT = ("worker/*.py", "consumers/*.py", "schemas/*.py")
CODE = (*PRODUCT, "tests/*.py")
MODULES = (*CODE, "deploy/*.py")
FOREIGN = {
    "nobody",  # the user as which Postgres runs where a test is root
    "It's a Secret to Everybody",  # the secret in GitHub's documentation
}
EXEMPT = (
    "tests/unit/test_language.py",
    # Columns and rows of earlier releases.
    "tests/integration/test_migrations.py",
)


@cache
def texts() -> list[tuple[str, str]]:
    return list(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    """The lines of documents, and the string literals of modules, with their places."""
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = CHECKOUT / name
        if any(fnmatch(name, pattern) for pattern in EXEMPT) or not path.is_file():
            continue
        if any(fnmatch(name, pattern) for pattern in DOCUMENTS):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                yield f"{name}:{number}", OLD_NAME.sub("", line)
        elif any(fnmatch(name, pattern) for pattern in MODULES):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and node.value not in FOREIGN
                ):
                    yield f"{name}:{node.lineno}", node.value


def banned_in(text: str) -> list[str]:
    return [match[0] for match in PATTERN.finditer(text)]


@cache
def code_tokens() -> list[tuple[str, tokenize.TokenInfo]]:
    return list(_code_tokens())


def _code_tokens() -> Iterator[tuple[str, tokenize.TokenInfo]]:
    """The names and comments in the modules of the product and the tests, with their places."""
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = CHECKOUT / name
        if any(fnmatch(name, pattern) for pattern in EXEMPT) or not path.is_file():
            continue
        if any(fnmatch(name, pattern) for pattern in CODE):
            for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
                if token.type in (tokenize.NAME, tokenize.COMMENT):
                    yield f"{name}:{token.start[0]}", token


def test_no_text_and_no_comment_has_a_banned_expression() -> None:
    comments = [(where, token.string) for where, token in code_tokens() if token.type == tokenize.COMMENT]
    violations = [
        f"{where}: {', '.join(expressions)}"
        for where, text in (*texts(), *comments)
        if (expressions := banned_in(text))
    ]

    assert not violations, "\n".join(violations)


def test_no_name_in_code_has_a_banned_word() -> None:
    violations = {
        f"{where}: {token.string}"
        for where, token in code_tokens()
        if token.type == tokenize.NAME
        and is_banned_name(token.string)
        and not ("link" in token.string.lower() and where.startswith(ABOUT_LINKS))
    }

    assert not violations, "\n".join(sorted(violations))


def is_banned_name(name: str) -> bool:
    """Errors may be called NotFound."""
    if name in ALLOWED_NAMES or "notfound" in name.lower().replace("_", ""):
        return False
    return not BANNED_NAMES.isdisjoint(word.lower() for word in _WORD.findall(name))


@pytest.mark.parametrize("name", ["told", "_told_at", "AskedAgain", "broker_words"])
def test_a_banned_name_is_detected(name: str) -> None:
    assert is_banned_name(name)


@pytest.mark.parametrize("name", ["FileNotFoundError", "NOT_FOUND", "linked", "dead_kept", "founded"])
def test_a_name_that_only_contains_a_banned_one_is_allowed(name: str) -> None:
    assert not is_banned_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "It is in hand.",
        "`dead mend 13`",
        "by lane",
        "It WORKS OFF the queue",
        "Nobody is told.",
        "So many events a second.",
        "Everybody once a round",
        "in somebody's hands",
        "in turns",
    ],
)
def test_a_banned_expression_is_detected(text: str) -> None:
    assert banned_in(text)


@pytest.mark.parametrize("text", ["amendment", "spool.sqlite3.mended", "planes", "climbing_rate_x"])
def test_a_part_of_another_word_is_ignored(text: str) -> None:
    assert not banned_in(text)
