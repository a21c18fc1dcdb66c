"""`stockhook buyback` against `stockhook simulate marketplaces`, as processes."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.payment_details import ADDRESS, CANARY, DETAILS

STOCKHOOK = [sys.executable, "-m", "worker"]
SETTINGS = 10


@dataclass
class Simulated:
    """A running simulation, and the settings that it printed."""

    process: subprocess.Popen[str]
    settings: dict[str, str]
    log: Path

    @property
    def url(self) -> str:
        return self.settings["STOCKHOOK_BUYBACK_API_URL"].removesuffix("/buyback")

    def run(self, *arguments: str, stdin: str = "", **overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*STOCKHOOK, "buyback", *arguments],
            env={**os.environ, **self.settings, **overrides},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def requests(self) -> list[dict[str, object]]:
        answered: list[dict[str, object]] = httpx.get(f"{self.url}/control/requests").json()
        return answered


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    orders = [argument for number in range(10) for argument in ("--order", f"order-{number}")]
    log = tmp_path_factory.mktemp("simulated") / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*STOCKHOOK, "simulate", "marketplaces", "--port", "0", *orders],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None, "it is a pipe"
    lines = [process.stdout.readline() for _ in range(SETTINGS)]
    settings = dict(line.strip().removeprefix("export ").split("=", 1) for line in lines)
    yield Simulated(process, settings, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()


def test_capabilities_are_a_table(simulated: Simulated) -> None:
    done = simulated.run("shipment-capabilities", "order-0")

    assert done.returncode == 0, done.stderr
    assert "pickup" in done.stdout
    assert "yes" in done.stdout
    assert "selected: null" in done.stdout


def test_capabilities_are_json(simulated: Simulated) -> None:
    done = simulated.run("shipment-capabilities", "order-0", "--json")

    assert json.loads(done.stdout) == {
        "order_id": "order-0",
        "answer": {"pickUpAllowed": True, "dropOffAllowed": True, "selected": None},
    }


def test_a_pickup_is_requested_for_slots_by_their_numbers(simulated: Simulated) -> None:
    offered = json.loads(simulated.run("pickup-capabilities", "order-1", "--json").stdout)["answer"]["slots"]
    table = simulated.run("pickup-capabilities", "order-1").stdout
    done = simulated.run("pickup-request", "order-1", "--offered", "2", "--offered", "3", "--json")

    assert offered[1]["initialSlot"][:10] in table
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    assert (taken["request"], taken["status"]) == ("pickup-request", 201)
    assert [slot["initial_slot"] for slot in taken["slots"]] == [slot["initialSlot"] for slot in offered[1:3]]


def test_a_pickup_is_requested_for_a_slot_by_its_time(simulated: Simulated) -> None:
    offered = json.loads(simulated.run("pickup-capabilities", "order-2", "--json").stdout)["answer"]["slots"]
    slot = f"{offered[0]['initialSlot']}/{offered[0]['finalSlot']}"
    done = simulated.run("pickup-request", "order-2", "--slot", slot)

    assert done.returncode == 0, done.stderr
    assert "a pickup of order order-2 is requested for" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --slot, or --offered"),
        (("--slot", "tomorrow"), "--slot must look like 2026-03-02T09:00Z/2026-03-02T12:00Z"),
        (("--slot", "2026-03-02T12:00Z/2026-03-02T09:00Z"), "it must end after it begins"),
        (("--slot", "2026-03-02T09:00/2026-03-02T12:00"), "timezone"),
        (("--offered", "99"), "--offered 99: there are 10 slots, from 1"),
    ],
)
def test_a_wrong_slot_is_a_sentence(simulated: Simulated, arguments: Sequence[str], message: str) -> None:
    done = simulated.run("pickup-request", "order-3", *arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert not any("order-3/pickup-request" in str(each["path"]) for each in simulated.requests())


def test_a_dropoff_is_requested_and_excludes_a_pickup(simulated: Simulated) -> None:
    done = simulated.run("dropoff-request", "order-4")
    again = simulated.run("pickup-request", "order-4", "--offered", "1")

    assert (done.returncode, done.stdout) == (0, "a drop-off of order order-4 is requested\n")
    assert again.returncode == 1
    assert "refused with status 409 Conflict (the order has a drop-off)" in again.stderr


def test_payment_details_come_from_a_file_or_standard_input(simulated: Simulated, tmp_path: Path) -> None:
    file = tmp_path / "details.json"
    file.write_text(json.dumps(DETAILS))
    from_file = simulated.run("payment-details", "order-5", "--file", str(file), "--json")
    from_stdin = simulated.run("payment-details", "order-6", "--file", "-", stdin=json.dumps(DETAILS))

    assert from_file.returncode == 0, from_file.stderr
    assert json.loads(from_file.stdout) == {
        "order_id": "order-5",
        "request": "payment-details",
        "status": 204,
    }
    assert (from_stdin.returncode, from_stdin.stdout) == (
        0,
        "the payment details of order order-6 were sent\n",
    )
    shown = "".join((from_file.stdout, from_file.stderr, from_stdin.stdout, from_stdin.stderr))
    assert "CANARY" not in shown + simulated.log.read_text()
    assert "payment-details" in simulated.log.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "payment details: not JSON"),
        (json.dumps({**DETAILS, "bankAccount": {}}), "bankAccount.accountNumber: Field required"),
        (json.dumps({**DETAILS, "iban": CANARY}), "iban: Extra inputs are not permitted"),
        (json.dumps({**DETAILS, CANARY: ""}), "there is an unknown member"),
        (
            json.dumps({**DETAILS, "billingAddress": {**ADDRESS, "country": CANARY}}),
            "billingAddress.country: String should match pattern",
        ),
        ("x" * 65_537, "payment details are at most 65,536 bytes long"),
    ],
)
def test_an_error_about_payment_details_does_not_quote_them(
    simulated: Simulated, content: str, message: str
) -> None:
    done = simulated.run("payment-details", "order-7", stdin=content)

    assert done.returncode == 2
    assert message in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


def test_a_missing_file_is_one_sentence(simulated: Simulated) -> None:
    done = simulated.run("payment-details", "order-7", "--file", "/nowhere")

    assert done.returncode == 2
    assert done.stderr == "stockhook: cannot read /nowhere: No such file or directory\n"


def test_on_a_terminal_payment_details_are_prompted_for(simulated: Simulated) -> None:
    answers = {
        "First name": "Ana",
        "Last name": "Silva",
        "Account number": CANARY,
        "Routing number": "BCOMPTPL",
        "beneficiary": "Ana Silva",
        "first line": "Example Street 1",
        "second line": "",
        "ZIP": "1000-001",
        "City": "Lisboa",
        "State": "",
        "Country": "pt",
    }
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*STOCKHOOK, "buyback", "payment-details", "order-8"],
        env={**os.environ, **simulated.settings},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        # Without a controlling terminal, it prompts on this one.
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""
    for prompt, answer in answers.items():
        shown = ""
        while not (prompt in shown and shown.endswith(": ")):
            assert select.select([ours], [], [], 30)[0], f"it does not ask for {prompt}"
            shown += os.read(ours, 1024).decode()
        seen += shown
        os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=30)
    os.close(ours)

    assert process.returncode == 0
    assert out == b"the payment details of order order-8 were sent\n"
    assert "Lisboa" in seen
    assert "CANARY" not in seen


def test_an_unknown_order_is_refused(simulated: Simulated) -> None:
    done = simulated.run("shipment-capabilities", "nobodys")

    assert done.returncode == 1
    assert done.stderr == (
        "stockhook: the buyback platform: refused with status 404 Not Found (no such order); "
        "is it an order of the seller that STOCKHOOK_BUYBACK_SELLER_ID names?\n"
    )


def test_wrong_credentials_are_refused_without_them(simulated: Simulated) -> None:
    done = simulated.run(
        "shipment-capabilities", "order-0", STOCKHOOK_BUYBACK_CLIENT_SECRET="canary-client-secret"
    )

    assert done.returncode == 1
    assert "no access token: refused with status 400 (invalid_client)" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("dropoff-request", "fault-error"), 69, "the request may have been accepted"),
        (
            ("dropoff-request", "fault-rate-limited"),
            69,
            "answered 429 Too Many Requests; it requests a delay of 1 s",
        ),
        (("dropoff-request", "fault-slow"), 69, "no whole answer within 2 s"),
        (("shipment-capabilities", "fault-error"), 69, "answered 500 Internal Server Error\n"),
        (("shipment-capabilities", "fault-oversized"), 1, "the answer is larger than 1,048,576 bytes\n"),
        (
            ("shipment-capabilities", "fault-redirect"),
            1,
            "answered with a redirect (302), which is not followed",
        ),
        (("pickup-capabilities", "fault-wrong-types"), 1, "slots: Input should be a valid"),
        (("pickup-capabilities", "a/b"), 2, "an order's id is made of letters"),
    ],
)
def test_a_fault_is_a_sentence(
    simulated: Simulated, arguments: Sequence[str], code: int, message: str
) -> None:
    done = simulated.run(*arguments, STOCKHOOK_BUYBACK_TIMEOUT="2")

    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_settings_are_named(simulated: Simulated) -> None:
    environment = {
        name: value
        for name, value in simulated.settings.items()
        if "SECRET" not in name and "_IP" not in name
    }
    done = subprocess.run(
        [*STOCKHOOK, "buyback", "payment-details", "order-0"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 78
    assert done.stderr == (
        "stockhook: STOCKHOOK_BUYBACK_REAL_IP, STOCKHOOK_BUYBACK_CLIENT_SECRET are not set: "
        "the buyback platform requires all of them\n"
    )


def test_a_taken_port_is_a_sentence(simulated: Simulated) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*STOCKHOOK, "simulate", "marketplaces", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 78
    assert f"cannot listen on '127.0.0.1' port {port}" in done.stderr


def test_the_help_names_each_fault(simulated: Simulated) -> None:
    done = subprocess.run(
        [*STOCKHOOK, "simulate", "marketplaces", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    for word in ("wrong-types", "hang-up", "trickle", "/control/faults", "--token-seconds"):
        assert word in done.stdout


def test_both_marketplaces_are_served(simulated: Simulated) -> None:
    answer = httpx.post(
        f"{simulated.settings['STOCKHOOK_OVOKO_API_URL']}/get/part/13",
        data={
            "username": simulated.settings["STOCKHOOK_OVOKO_USERNAME"],
            "password": simulated.settings["STOCKHOOK_OVOKO_PASSWORD"],
            "user_token": simulated.settings["STOCKHOOK_OVOKO_USER_TOKEN"],
        },
    )

    assert answer.json()["status_code"] == "R404"
