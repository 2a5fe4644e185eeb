"""Tries what the service's sandbox is to forbid, and prints what succeeded, as one JSON object.

Its arguments are further addresses that it tries to connect to. Nothing but Python is needed.
"""

import _ctypes
import ctypes
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

PORT: Final = 8080
LOOPBACK: Final = "127.0.0.1"
PAGE: Final = 9464
"""The port of `http.bind`, unless it is told otherwise."""


def _connect(host: str) -> None:
    socket.create_connection((host, PORT), 5).close()


def _listen(port: int) -> None:
    socket.create_server((LOOPBACK, port)).close()


def _write(folder: str) -> None:
    (Path(folder) / "probe").touch()


def _copied(path: str) -> str:
    """Copy a file to the service's own /tmp, where everybody may execute it."""
    copy = shutil.copy(path, "/tmp")
    Path(copy).chmod(0o755)
    return copy


def _execute(path: str) -> None:
    subprocess.run([path], check=True)


def _look_into(folder: str) -> None:
    list(Path(folder).iterdir())


def _see_systemd() -> None:
    Path("/proc/1/comm").read_text()


ATTEMPTS: Final[Mapping[str, Callable[[], object]]] = {
    "connect to loopback": lambda: _connect(LOOPBACK),
    "listen at the page's port": lambda: _listen(PAGE),
    "write to its own /tmp": lambda: _write("/tmp"),
    "execute a program of the system": lambda: _execute("/usr/bin/true"),
    "listen at another port": lambda: _listen(PAGE + 1),
    "listen at any port": lambda: _listen(0),
    "execute what it wrote": lambda: _execute(_copied("/usr/bin/true")),
    "load a library that it wrote": lambda: ctypes.CDLL(_copied(_ctypes.__file__)),
    "write to shared memory": lambda: _write("/dev/shm"),
    "write to /etc": lambda: _write("/etc/notifierd"),
    "write to its own programs": lambda: _write("/opt/notifierd"),
    "write to /var": lambda: _write("/var/lib"),
    "read where secrets are kept": lambda: _look_into("/etc/credstore"),
    "read the system's log": lambda: _look_into("/var/log"),
    "read what is served from here": lambda: _look_into("/srv"),
    "read how the machine boots": lambda: _look_into("/boot"),
    "read the accounts' passwords": lambda: Path("/etc/shadow").read_text(),
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
    tried = {**ATTEMPTS, **{f"connect to {host}": partial(_connect, host) for host in sys.argv[1:]}}
    with ThreadPoolExecutor(len(tried)) as pool:  # all at once: an address that is closed off answers nothing
        found = dict(zip(tried, pool.map(_succeeds, tried.values()), strict=True))
    sys.stdout.write(json.dumps(found) + "\n")
