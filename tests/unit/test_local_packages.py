"""The packages to download, from the simulation of apt-get."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.local.packages import (
    CHROMIUM,
    POSTGRES,
    RABBITMQ,
    needed_packages,
    relocate_erlang,
    replace_text,
    would_install,
)

EMPTY_HOST = """\
Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64])
Inst libsctp1 (1.0.19+dfsg-2 Debian:12.15/oldstable [amd64])
Inst erlang-base (1:25.2.3+dfsg-1 Debian:12.15/oldstable [amd64]) []
Inst erlang-crypto (1:25.2.3+dfsg-1 Debian:12.15/oldstable [amd64])
Inst logrotate (3.21.0-1 Debian:12.15/oldstable [amd64])
Inst rabbitmq-server (3.10.8-1.1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [all])
Conf rabbitmq-server (3.10.8-1.1 Debian:12.15/oldstable [all])
"""

HOST_WITH_ERLANG = """\
Inst libsctp1 (1.0.19+dfsg-2 Debian:12.15/oldstable [amd64])
Inst libc6 [2.36-8] (2.36-9 Debian:12.15/oldstable [amd64])
Inst logrotate (3.21.0-1 Debian:12.15/oldstable [amd64])
Inst rabbitmq-server (3.10.8-1.1 Debian:12.15/oldstable [all])
"""

POSTGRES_ON_EMPTY_HOST = """\
Inst libicu72 (72.1-3 Debian:12.15/oldstable [amd64])
Inst libllvm14 (1:14.0.6-12 Debian:12.15/oldstable [amd64])
Inst libz3-4 (4.8.12-3.1 Debian:12.15/oldstable [amd64])
Inst libperl5.36 (5.36.0-7 Debian:12.15/oldstable [amd64])
Inst libjson-perl (4.10000-1 Debian:12.15/oldstable [all])
Inst postgresql-client-common (248 Debian:12.15/oldstable [all])
Inst postgresql-client-15 (15.18-0 Debian:12.15/oldstable [amd64])
Inst postgresql-common (248 Debian:12.15/oldstable [all])
Inst postgresql-15 (15.18-0 Debian:12.15/oldstable [amd64])
Inst postgresql (15+248 Debian:12.15/oldstable [all])
"""


CHROMIUM_ON_EMPTY_HOST = """\
Inst fontconfig-config (2.14.1-4 Debian:12.15/oldstable [amd64])
Inst fonts-dejavu-core (2.37-6 Debian:12.15/oldstable [all])
Inst fonts-inter (4.0+ds-1 Debian:12.15/oldstable [all])
Inst libllvm15 (1:15.0.6-4 Debian:12.15/oldstable [amd64])
Inst libgtk-3-0 (3.24.38-2 Debian:12.15/oldstable [amd64])
Inst xdg-utils (1.1.3-4.1 Debian:12.15/oldstable [all])
Inst chromium-common (150.0-1 Debian-Security:12/oldstable-security [amd64])
Inst chromium (150.0-1 Debian-Security:12/oldstable-security [amd64])
"""


def test_only_missing_packages_count_not_upgradable_ones() -> None:
    assert would_install(HOST_WITH_ERLANG) == ["libsctp1", "logrotate", "rabbitmq-server"]


def test_the_core_is_downloaded_even_when_dpkg_believes_that_it_is_installed() -> None:
    names = needed_packages(RABBITMQ, whole=EMPTY_HOST, missing=HOST_WITH_ERLANG)

    assert names == ["erlang-base", "erlang-crypto", "libsctp1", "rabbitmq-server"]


def test_nothing_is_downloaded_that_the_server_runs_without() -> None:
    names = needed_packages(POSTGRES, whole=POSTGRES_ON_EMPTY_HOST, missing=POSTGRES_ON_EMPTY_HOST)

    assert names == ["libicu72", "postgresql-15", "postgresql-client-15"]


def test_chromium_comes_with_fonts_of_its_own() -> None:
    assert needed_packages(CHROMIUM, whole=CHROMIUM_ON_EMPTY_HOST, missing="") == [
        "chromium",
        "chromium-common",
        "fontconfig-config",
        "fonts-dejavu-core",
        "fonts-inter",
    ]


def test_a_host_that_lacks_no_library_gets_only_the_core() -> None:
    assert needed_packages(POSTGRES, whole=POSTGRES_ON_EMPTY_HOST, missing="") == [
        "postgresql-15",
        "postgresql-client-15",
    ]


def test_the_scripts_of_erlang_are_relocated_by_several_processes_at_once(tmp_path: Path) -> None:
    script = tmp_path / "packages" / "rabbitmq-server" / "usr/lib/erlang/bin/erl"
    script.parent.mkdir(parents=True)
    root = tmp_path / "packages" / "rabbitmq-server"
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            script.write_text("#!/bin/sh\nROOTDIR=/usr/lib/erlang\n")
            list(threads.map(relocate_erlang, [root] * 8))

            assert script.read_text() == f"#!/bin/sh\nROOTDIR={root}/usr/lib/erlang\n"


def test_a_file_is_replaced_while_other_processes_read_it(tmp_path: Path) -> None:
    file = tmp_path / "fonts.conf"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda text: replace_text(file, text), ["one", "other"] * 20))

    assert file.read_text() in ("one", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["fonts.conf"]
