"""Two hosts on one Linux machine: network namespaces and a link of stated speed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUBNET = "10.77.0"


class Hosts(NamedTuple):
    """Where two processes run, and how their traffic is seen.

    Attributes:
        prefixes: of their command lines.
        address: of the first, as the second reaches it.
        interface: whose bytes count, in /proc/net/dev of each.
        both: whether that interface carries the traffic of both directions at once.
    """

    prefixes: tuple[tuple[str, ...], tuple[str, ...]]
    address: str
    interface: str
    both: bool


LOOPBACK = Hosts(((), ()), "127.0.0.1", "lo", both=True)


def why_not() -> str | None:
    """What this machine lacks for two hosts with a shaped link; None if nothing."""
    if os.geteuid():
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` (Debian package iproute2)"
    try:
        with two_hosts(0.1):
            return None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or ["no reason given"]
        return f"`{' '.join(error.cmd)}` fails: {said[-1]}"


@contextlib.contextmanager
def two_hosts(gbits: float | None) -> Iterator[Hosts]:
    """Two namespaces with a veth link, shaped by tbf in both directions unless None.

    Each has a hosts file in which this machine's name is its own address: Gloo
    advertises what the name resolves to, and 127.0.0.1 leads nowhere between them.
    All of it is removed at the end.

    Fails: `CalledProcessError` where the kernel or the rights do not allow it.
    """
    names = [f"jopt{os.getpid()}{end}" for end in "ab"]
    links = [f"jv{os.getpid() % 10**7}{end}" for end in "ab"]
    files = [Path("/etc/netns") / name for name in names]
    try:
        for name in names:
            _do("ip", "netns", "add", name)
        _do(
            *("ip", "link", "add", links[0], "netns", names[0], "type", "veth"),
            *("peer", "name", links[1], "netns", names[1]),
        )
        for place, (name, link, folder) in enumerate(
            zip(names, links, files, strict=True), start=1
        ):
            address = f"{SUBNET}.{place}"
            _do("ip", "-n", name, "link", "set", "lo", "up")
            _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", link)
            _do("ip", "-n", name, "link", "set", link, "up")
            if gbits is not None:
                shape = ("rate", f"{gbits * 1e9:.0f}bit", "burst", "128kb")
                queue = ("qdisc", "replace", "dev", link, "root", "tbf")
                _do("tc", "-n", name, *queue, *shape, "latency", "400ms")
            folder.mkdir(parents=True)
            own = f"{address} {socket.gethostname()}\n"
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{own}")
        # Each sees one interface that begins so, besides its loopback.
        yield Hosts(
            tuple(("ip", "netns", "exec", name) for name in names),  # type: ignore[arg-type]
            f"{SUBNET}.1",
            "jv",
            both=False,
        )
    finally:
        for name, folder in zip(names, files, strict=True):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
