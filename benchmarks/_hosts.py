"""Two hosts on one Linux machine: network namespaces and a link of stated speed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

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


class Pair(NamedTuple):
    """A process on each of two hosts, which join one job.

    Attributes:
        hosts: where they run.
        started: the processes.
        files: what they say.
    """

    hosts: Hosts
    started: list[subprocess.Popen]
    files: list[IO[str]]

    def sent(self) -> float:
        """Bytes that the first host has sent to the other so far."""
        # Of the namespace that its process is in.
        text = Path(f"/proc/{self.started[0].pid}/net/dev").read_text()
        return bytes_sent(text, self.hosts.interface) / (2 if self.hosts.both else 1)

    def ends(self, limit: float) -> str:
        """What the first one said, once both have ended, within so many seconds.

        Fails: `RuntimeError` with what one said that did not end well.
        """
        until = time.monotonic() + limit
        for process in self.started:
            process.wait(max(until - time.monotonic(), 0.0))
        texts = []
        for process, file in zip(self.started, self.files, strict=True):
            file.seek(0)
            texts.append(file.read())
            if process.returncode:
                code = process.returncode
                raise RuntimeError(f"a host ended with {code}:\n{texts[-1]}")
        return texts[0]


@contextlib.contextmanager
def two_processes(hosts: Hosts, command: Sequence[str]) -> Iterator[Pair]:
    """Starts a command of Python on both hosts, and ends them at the latest here.

    Args:
        hosts: where.
        command: without what joins them; each has one device, of a CPU.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    joining = [f"--coordinator={hosts.address}:{port}", "--num_processes=2"]
    pair = Pair(hosts, [], [])
    with contextlib.ExitStack() as files:
        try:
            for index, prefix in enumerate(hosts.prefixes):
                pair.files.append(files.enter_context(tempfile.TemporaryFile("w+")))
                own = [*prefix, sys.executable, *command, *joining]
                pair.started.append(
                    subprocess.Popen(
                        [*own, f"--process_id={index}"],
                        env=env,
                        stdout=pair.files[-1],
                        stderr=subprocess.STDOUT,
                    )
                )
            yield pair
        finally:
            for process in pair.started:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def bytes_sent(text: str, interface: str) -> int:
    """By interfaces of this name, or beginning, in the text of /proc/net/dev.

    >>> head = "Inter-| Receive | Transmit\\n face |bytes\\n"
    >>> bytes_sent(head + "  lo: 1 0 0 0 0 0 0 0 9 0\\n jv0: 1 0 0 0 0 0 0 0 5 0", "jv")
    5
    """
    total = 0
    for line in text.splitlines()[2:]:
        name, numbers = line.split(":")
        if name.strip().startswith(interface):
            total += int(numbers.split()[8])
    return total


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
    All of it is removed at the end, which SIGTERM brings about as well.

    Fails: `CalledProcessError` where the kernel or the rights do not allow it.
    """
    names = [f"jopt{os.getpid()}{end}" for end in "ab"]
    links = [f"jv{os.getpid() % 10**7}{end}" for end in "ab"]
    files = [Path("/etc/netns") / name for name in names]
    before = signal.signal(signal.SIGTERM, _exit)
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
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
