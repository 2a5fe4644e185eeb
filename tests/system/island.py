"""A network in which every address there is leads to this machine, so that no connection is lost on its way.

What runs there also has its own files in place of some of the system's: /etc/resolv.conf, say. Root only.
"""

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from attrs import frozen

_LIBC = ctypes.CDLL(None, use_errno=True)

_SET_UP = """
ip link set lo up
ip route add local default dev lo
ip -6 route add local default dev lo
while (($#)); do mount --bind "$1" "$2"; shift 2; done
echo ready
read -r _ || true
"""

_CONNECT = re.compile(
    r"""connect\(\d+<TCP(?:v6)?:.*?>,\ \{sa_family=AF_INET6?,\ sin6?_port=htons\((\d+)\)
        .*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6,\ "([^"]+)")""",
    re.VERBOSE,
)


@frozen
class Island:
    """The network.

    Attributes:
        pid: of a process that is there.
    """

    pid: int

    def network(self) -> AbstractContextManager[None]:
        """Be there for the block: what this thread opens or starts stays there."""
        return network_of(self.pid)

    def watched(self, folder: Path, trace: Path) -> Sequence[str]:
        """What a command is to be run by, so that it runs there, and every connect(2) of it goes to *trace*."""
        there = ["nsenter", "--net", "--mount", f"--target={self.pid}", "--", "env", f"--chdir={folder}"]
        options = ["--seccomp-bpf", "--trace=connect", "--signal=none", "-yy", f"--output={trace}"]
        return [*there, "strace", "-f", "-qq", *options, "setpriv", "--pdeathsig=KILL"]


def tcp_connects(trace: Path) -> list[tuple[str, int]]:
    """The address and port of each TCP connection that was tried, whatever became of it."""
    found = (_CONNECT.search(line) for line in trace.read_text(encoding="utf-8").splitlines())
    return [(one[2] or one[3], int(one[1])) for one in found if one]


@contextmanager
def an_island(files: Mapping[Path, Path]) -> Iterator[Island]:
    """Make one for the block; each path of *files* is there what it leads to here."""
    if os.geteuid() != 0:
        pytest.fail("these tests make a network, which needs root: sudo make test-system", pytrace=False)
    pairs = [str(path) for there, here in files.items() for path in (here, there)]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--mount", "bash", "-euc", _SET_UP, "bash", *pairs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield Island(process.pid)
            process.stdin.close()
            assert process.wait(10) == 0
        finally:
            process.kill()


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Be in the network of a process for the block: what this thread opens or starts there stays there."""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(theirs)
        try:
            yield
        finally:
            _enter(ours)
    finally:
        os.close(ours)
        os.close(theirs)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
