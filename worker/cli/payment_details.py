"""Payment details from an operator: in a file, on standard input, or at a prompt."""

import re
import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path

from pydantic import SecretStr, ValidationError

from schemas.events import read_model
from schemas.validation import BrokenRule, broken_rules
from worker.cli.terminal import console
from worker.marketplaces.buyback.requests import BankAccount, BillingAddress, PaymentDetails
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import USAGE

LONGEST_BYTES = 65_536

STANDARD_INPUT = Path("-")

# An unknown member is named only if it cannot be an account number.
_NAME = re.compile(r"[A-Za-z.]{1,80}")


class BadDetails(StockhookError):
    """The details cannot be sent. The text names members and rules, never a value."""

    exit_code = USAGE


def read_details(source: Path | None) -> PaymentDetails:
    """Read JSON from a file or standard input, or prompt for each value if that is a terminal.

    Raises:
        BadDetails
    """
    if source is None and sys.stdin.isatty():
        return prompt_for_details()
    return parsed_details(_read(source or STANDARD_INPUT))


def _read(source: Path) -> bytes:
    if source == STANDARD_INPUT:
        content = sys.stdin.buffer.read(LONGEST_BYTES + 1)
    else:
        try:
            with source.open("rb") as file:
                content = file.read(LONGEST_BYTES + 1)
        except OSError as error:
            raise BadDetails(f"cannot read {source}: {error.strerror}") from None
    if len(content) > LONGEST_BYTES:
        raise BadDetails(f"payment details are at most {LONGEST_BYTES:,} bytes long")
    return content


def parsed_details(content: bytes) -> PaymentDetails:
    """Raises: BadDetails."""
    try:
        return read_model(PaymentDetails, content)
    except ValidationError as error:
        raise BadDetails(_faults_text(error)) from None
    except ValueError:
        raise BadDetails("payment details: not JSON") from None


def prompt_for_details() -> PaymentDetails:
    """Prompt on the terminal. The account number is not echoed.

    Raises:
        BadDetails
    """
    prompts = console(stderr=True)

    def prompt(label: str, read: Callable[[str], str] = prompts.input) -> SecretStr:
        return SecretStr(read(f"{label}: ").strip())

    def prompt_optional(label: str) -> SecretStr | None:
        value = prompt(f"{label} (may be empty)")
        return value if value.get_secret_value() else None

    try:
        return PaymentDetails(
            first_name=prompt("First name"),
            last_name=prompt("Last name"),
            bank_account=BankAccount(
                account_number=prompt("Account number or IBAN, not shown", getpass),
                financial_institution_identifier=prompt("Routing number, SWIFT or BIC code"),
                beneficiary_name=prompt("Name of the beneficiary"),
            ),
            billing_address=BillingAddress(
                first_line=prompt("Address, first line"),
                second_line=prompt_optional("Address, second line"),
                zip_code=prompt("ZIP code"),
                city=prompt("City"),
                state=prompt_optional("State"),
                country=prompt("Country, two letters").get_secret_value().upper(),
            ),
        )
    except ValidationError as error:
        raise BadDetails(_faults_text(error)) from None
    except EOFError:
        raise BadDetails("the input ended before all payment details were given") from None


def _faults_text(error: ValidationError) -> str:
    return "payment details: " + "; ".join(map(_rule_text, broken_rules(error)))


def _rule_text(broken: BrokenRule) -> str:
    if broken.name == "extra_forbidden" and not _NAME.fullmatch(broken.path):
        return "there is an unknown member"
    return str(broken)
