"""Partitions of a cluster: packets between the distribution ports of its nodes are dropped or refused."""

import os
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from deploy.local import packages
from deploy.local.programs import with_libraries
from deploy.local.services import PACKAGES, Announce

ANSWER_SECONDS = 10
LOOK_SECONDS = 0.02


class NoPacketFilter(Exception):
    """This machine cannot filter packets; the text is the reason."""


@dataclass(frozen=True, slots=True)
class End:
    """The address and port at which a node accepts connections; it connects from the same address."""

    address: str
    port: int


class PacketFilter:
    """A table of nftables that one process of nft owns: the kernel removes it when that process ends."""

    def __init__(self, announce: Announce) -> None:
        """
        Raises:
            NoPacketFilter
        """
        if os.geteuid() != 0:
            raise NoPacketFilter("needs root")
        try:
            program, libraries = packages.nft(PACKAGES, announce)
        except packages.DownloadFailed as failure:
            raise NoPacketFilter(str(failure)) from failure
        self._program = program
        self._environment = with_libraries(libraries)
        self._table = f"inet stockhook_chaos_{os.getpid()}"
        self._nft: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """
        Raises:
            NoPacketFilter
        """
        self._nft = subprocess.Popen(
            [self._program, "--interactive"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._order(f"add table {self._table} {{ flags owner; }}")
        self._order(f"add chain {self._table} out {{ type filter hook output priority 0; }}")
        try:
            self._set([])
        except TimeoutError:
            self.__exit__()
            raise NoPacketFilter("the kernel refuses tables of nftables") from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self._nft is not None
        self._nft.kill()
        self._nft.communicate()

    def cut(self, pairs: Iterable[tuple[End, End]], *, reset: bool) -> None:
        """Block the two ends of each pair from each other, and allow everything else.

        With `reset`, connections between them are reset and new ones refused; else their packets are lost.
        """
        # The reset itself passes the filter too.
        verdict = "tcp flags & rst == 0 reject with tcp reset" if reset else "drop"
        rules = []
        for one, other in pairs:
            ends = f"{{ {one.address}, {other.address} }}"
            ports = f"{{ {one.port}, {other.port} }}"
            between = f"ip saddr {ends} ip daddr {ends}"
            rules += [f"{between} tcp {side} {ports} {verdict}" for side in ("sport", "dport")]
        self._set(rules)

    def heal(self) -> None:
        self._set([])

    def _set(self, rules: list[str]) -> None:
        """Set the rules in one transaction; return when the kernel has them. Raises TimeoutError."""
        added = [f'add rule {self._table} out {rule} comment "{number}"' for number, rule in enumerate(rules)]
        self._order("; ".join([f"flush chain {self._table} out", *added]))
        end = time.monotonic() + ANSWER_SECONDS
        while self._number_of_rules() != len(rules):
            if time.monotonic() > end:
                raise TimeoutError("nft did not set the rules")
            time.sleep(LOOK_SECONDS)

    def _order(self, line: str) -> None:
        assert self._nft is not None
        assert self._nft.stdin is not None
        with suppress(BrokenPipeError):
            self._nft.stdin.write(f"{line}\n")
            self._nft.stdin.flush()

    def _number_of_rules(self) -> int | None:
        done = subprocess.run(
            [self._program, "list", "chain", *self._table.split(), "out"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.count("comment") if done.returncode == 0 else None
