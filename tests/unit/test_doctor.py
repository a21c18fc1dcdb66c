"""Doctor's findings for values that no test machine has."""

from pathlib import Path

import pytest

from worker.amqp.desired_topology import expected_topology
from worker.amqp.errors import BrokerRefused, BrokerUnavailable
from worker.amqp.topology import Exchange, Queue
from worker.config.check import CheckResult, Level, clock_difference
from worker.config.settings import Settings
from worker.tools.doctor.broker import check_hosts, check_members, check_topology
from worker.tools.doctor.configuration import check_configuration
from worker.tools.doctor.database import check_settings
from worker.tools.doctor.spool import check_spool, file_system
from worker.tools.doctor.traces import check_traces
from worker.tools.doctor.versions import check_version

SOUND = {
    "server_version": "15.4 (Debian)",
    "server_version_num": "150004",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    "server_encoding": "UTF8",
    "shared_buffers": "131072",
    "default_transaction_read_only": "off",
}


def troubles(findings: list[CheckResult]) -> set[tuple[Level, str]]:
    return {(finding.level, finding.subject) for finding in findings if finding.level is not Level.OK}


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("3.9.29", Level.ERROR),
        ("3.10.8", Level.WARNING),
        ("3.10.25", Level.OK),
        ("3.11.19", Level.WARNING),
        ("3.12.14", Level.OK),
        ("3.13.2", Level.WARNING),
        ("3.13.3", Level.OK),
        ("4.2.1", Level.OK),
        ("4.3.4", Level.WARNING),
        ("4.3.5", Level.OK),
        ("unknown", Level.WARNING),
    ],
)
def test_versions_with_known_limits_are_named(version: str, level: Level) -> None:
    (finding,) = check_version(version)

    assert finding.level is level
    assert version in finding.what
    assert bool(finding.remedy) is (level is not Level.OK)


def test_a_sound_database_has_no_trouble() -> None:
    assert troubles(list(check_settings(SOUND))) == set()


@pytest.mark.parametrize(
    ("changed", "trouble"),
    [
        ({"server_version_num": "140010"}, (Level.ERROR, "database version")),
        ({"fsync": "off"}, (Level.ERROR, "durability")),
        ({"full_page_writes": "off"}, (Level.ERROR, "durability")),
        ({"synchronous_commit": "off"}, (Level.ERROR, "durability")),
        ({"synchronous_commit": "local"}, (Level.ERROR, "durability")),
        ({"server_encoding": "SQL_ASCII"}, (Level.ERROR, "encoding")),
        ({"max_connections": "10"}, (Level.ERROR, "connections")),
        ({"max_connections": "20"}, (Level.WARNING, "connections")),
        ({"default_transaction_read_only": "on"}, (Level.ERROR, "database")),
    ],
)
def test_database_problems_are_errors_with_a_remedy(
    changed: dict[str, str], trouble: tuple[Level, str]
) -> None:
    assert troubles(list(check_settings(SOUND | changed))) == {trouble}


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.3, Level.OK), (-5.0, Level.WARNING), (3600.0, Level.ERROR)]
)
def test_clocks_that_differ(seconds: float, level: Level) -> None:
    assert clock_difference("the database's clock", seconds).level is level


MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /run rw - tmpfs tmpfs rw
24 23 0:22 / /run/a\\040disk rw - xfs /dev/vdb rw
25 22 0:23 / /srv rw - ext4 /dev/vdc rw
26 22 0:24 / /srv rw - nfs4 server:/x rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/run/stockhook", "tmpfs"),
        ("/run/a disk/x", "xfs"),
        ("/runner", "ext4"),
        ("/srv/spool", "nfs4"),
    ],
)
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTINFO) == kind


def test_a_spool_that_may_grow_beyond_its_disk(tmp_path: Path) -> None:
    findings = list(check_spool(tmp_path / "not/yet/there/spool.sqlite3", 10**18))

    assert (Level.ERROR, "spool") in troubles(findings)
    assert any("GB free" in finding.what for finding in findings)


def test_an_incomplete_ovoko_account_requests_nothing() -> None:
    account = {"ovoko_username": "merchant", "ovoko_password": "a password"}

    def details(**given: str) -> list[tuple[Level, str]]:
        findings = check_configuration(Settings(**given))  # type: ignore[arg-type]  # as the environment has them
        return [(finding.level, finding.what) for finding in findings if finding.subject == "enrichment"]

    assert details() == []
    assert details(**account, ovoko_user_token="a token") == [
        (Level.OK, "details that Ovoko's events leave out are requested, 4 calls per second at most")
    ]
    ((level, message),) = details(**account)
    assert level is Level.WARNING
    assert "STOCKHOOK_OVOKO_USER_TOKEN is not set" in message
    assert "a password" not in message


def test_hosts_that_do_not_answer_are_named_where_another_does() -> None:
    silent = {"b:5672": BrokerUnavailable("no answer in time")}
    refusing = {"c:5672": BrokerRefused("403 ACCESS_REFUSED", "correct the user")}

    (missing, refused) = check_hosts("STOCKHOOK_AMQP_URL", 3, silent | refusing)
    (well,) = check_hosts("STOCKHOOK_AMQP_URL", 3, {})

    assert (missing.level, missing.what) == (Level.WARNING, "b:5672 cannot be used (no answer in time)")
    assert missing.remedy == "start it, or correct or remove it in STOCKHOOK_AMQP_URL"
    assert refused.level is Level.ERROR
    assert refused.what == "c:5672 refuses, and another host accepts: 403 ACCESS_REFUSED"
    assert refused.remedy == "correct the user"
    assert well == CheckResult(Level.OK, "hosts", "all 3 hosts of STOCKHOOK_AMQP_URL answer")
    assert list(check_hosts("STOCKHOOK_AMQP_URL", 2, silent | refusing)) == []


def members_of(*queues: tuple[str, str, str], nodes: str) -> list[str]:
    """The findings for queues with these members; the names of stopped nodes are in capitals."""
    findings = check_members(
        [
            {"name": name, "members": [*members.lower()], "online": [*online]}
            for name, members, online in queues
        ],
        [{"name": node.lower(), "running": node.islower()} for node in nodes],
        "shop",
    )
    return [f"{finding.level}: {finding.what}" for finding in findings]


def test_nodes_whose_queues_lack_members_are_named_with_the_queues() -> None:
    assert members_of(("q1", "abc", "abc"), nodes="abc") == []
    assert members_of(("q1", "abc", "ab"), ("q2", "abc", "b"), nodes="abC") == [
        "warning: a: its members of 1 queues are offline: q2",
        "warning: c: its members of 2 queues are offline: q1, q2",
    ]


def test_a_queue_of_a_cluster_has_three_members_or_as_many_as_nodes_run() -> None:
    assert members_of(("q1", "ab", "ab"), nodes="ab") == []
    assert members_of(("q1", "abc", "abc"), nodes="abcde") == []
    assert members_of(("q1", "ab", "ab"), nodes="abC") == []
    assert members_of(("q1", "ab", "ab"), ("q2", "", ""), nodes="abc") == [
        "warning: c: 1 queues have no member there: q1"
    ]
    assert members_of(("q1", "ab", "ab"), ("q2", "ab", "ab"), nodes="abcde") == [
        "warning: c, d, e: 2 queues have no member there: q1, q2"
    ]


def test_the_command_that_adds_members_matches_only_our_queues() -> None:
    queue = {"name": "q1", "members": ["a", "b"], "online": ["a", "b"]}
    (lacking,) = check_members([queue], [{"name": name, "running": True} for name in "abc"], "shop.1")

    assert lacking.remedy == (
        "add members: `rabbitmq-queues grow c all "
        r"--vhost-pattern '^shop\.1$' --queue-pattern '^stockhook\.'`"
    )


def test_of_many_queues_some_are_named() -> None:
    queues = [(f"q{number}", "abc", "ab") for number in range(7)]

    assert members_of(*queues, nodes="abC") == [
        "warning: c: its members of 7 queues are offline: q0, q1, q2, q3, q4 and 2 more"
    ]


class PartlyVisible:
    """A connection of a user that sees only some names, as in RabbitMQ 4.2.6 and newer."""

    def __init__(self, visible: str, *, may_declare: bool) -> None:
        self._visible = visible
        self._may_declare = may_declare

    async def difference(self, item: Exchange | Queue, *, by_arguments: bool = True) -> str | None:
        if self._visible not in item.name or (by_arguments and not self._may_declare):
            raise BrokerRefused("403 ACCESS_REFUSED", "see the permissions")
        return None


@pytest.mark.parametrize(
    ("visible", "may_declare", "number", "levels"),
    [
        ("", True, 36, ["ok", "warning"]),
        ("", False, 36, ["ok"]),
        ("orders", False, 5, ["ok"]),
        ("nothing", False, 0, ["ok"]),
    ],
)
async def test_an_invisible_object_is_neither_missing_nor_a_reason_to_stop(
    visible: str, may_declare: bool, number: int, levels: list[str]
) -> None:
    settings = Settings(declare_topology=False)
    connection = PartlyVisible(visible, may_declare=may_declare)

    findings, seen = await check_topology(
        connection,  # type: ignore[arg-type]  # all that it asks of a connection
        expected_topology(settings),
        settings,
    )

    assert len(seen) == number
    assert [str(finding.level) for finding in findings] == levels


@pytest.mark.parametrize(
    ("environment", "level", "text"),
    [
        ({}, Level.OK, "localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, Level.OK, "localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/otlp"}, Level.OK, "exported to collector"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:4317",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]:4318/v1/traces",
            },
            Level.OK,
            "exported to [::1]:4318",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, Level.ERROR, "must start with http://"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@a b"}, Level.ERROR, "has a blank"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, Level.WARNING, "gRPC"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Level.WARNING, "is not http/protobuf"),
        ({"OTEL_SDK_DISABLED": "True"}, Level.WARNING, "turns it off"),
    ],
)
def test_the_export_of_traces_is_checked(environment: dict[str, str], level: Level, text: str) -> None:
    finding, *_ = check_traces(Settings(tracing=True), environment)

    assert finding.level is level
    assert text in finding.what
    assert "secret" not in finding.what
    assert bool(finding.remedy) is (level is not Level.OK)


def test_without_tracing_the_variables_of_opentelemetry_do_not_matter() -> None:
    assert list(check_traces(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})) == []


def test_a_missing_extra_for_traces_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.tools.doctor.traces.PACKAGES", ("opentelemetry-sdk", "no-such-package"))
    (finding,) = check_traces(Settings(tracing=True), {})

    assert finding.level is Level.ERROR
    assert "no-such-package is not installed" in finding.what
    assert finding.remedy == "install stockhook[otel]"


def test_trust_in_contexts_needs_a_sender_that_can_be_trusted() -> None:
    def findings(**changes: object) -> list[Level]:
        settings = Settings(trust_traceparent=True, **changes)  # type: ignore[arg-type]  # as the environment has them
        return [finding.level for finding in check_traces(settings, {})]

    assert findings(trusted_proxies="") == [Level.WARNING]
    assert findings(trusted_proxies="10.0.0.0/8") == []
    assert findings(trusted_proxies="", gateway="hookdeck") == []
