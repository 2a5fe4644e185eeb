"""Tries what the service's sandbox is to forbid, and prints what succeeded, as one JSON object."""

import json
import mmap
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

METADATA: Final = ("169.254.169.254", 8080)
LOOPBACK: Final = ("127.0.0.1", 8080)


def _connect(address: tuple[str, int]) -> None:
    socket.create_connection(address, 5).close()


def _write(folder: str) -> None:
    (Path(folder) / "probe").touch()


def _see_systemd() -> None:
    Path("/proc/1/comm").read_text()


ATTEMPTS: Final[Mapping[str, Callable[[], object]]] = {
    "connect to loopback": lambda: _connect(LOOPBACK),
    "write to its own /tmp": lambda: _write("/tmp"),
    "connect to the metadata service": lambda: _connect(METADATA),
    "write to /etc": lambda: _write("/etc/notifierd"),
    "write to its own programs": lambda: _write("/opt/notifierd"),
    "write to /var": lambda: _write("/var/lib"),
    "read where secrets are kept": lambda: list(Path("/etc/credstore").iterdir()),
    "see other processes": _see_systemd,
    "make memory that is writable and executable": lambda: mmap.mmap(
        -1, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ),
    "talk to the kernel over netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "be root": lambda: os.setuid(0),
    "change its priority": lambda: os.nice(-1),
}


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: _succeeds(attempt) for name, attempt in ATTEMPTS.items()}) + "\n")
