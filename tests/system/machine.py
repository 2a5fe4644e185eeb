"""A machine with a systemd of its own, as tests see it: this machine's, booted as PID 1 of new namespaces.

The system is a copy of this one, which notifierd was installed in; it has its own network, where nothing but loopback
is. Root only.
"""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from notifierd.demo.postgres import Cluster
from tests.support.processes import PATIENCE, until
from tests.system.island import network_of

REPOSITORY = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot.sh")
BOOT_SECONDS = 180.0
"""For the installation, which a slow package index has most of, and the boot."""

UNIT = "notifierd.service"

_SOCKET = ".s.PGSQL.5432"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@frozen
class Machine:
    """The booted system.

    Attributes:
        pid: of its PID 1.
    """

    pid: int

    @property
    def root(self) -> Path:
        """Its root folder, from here."""
        return Path(f"/proc/{self.pid}/root")

    def run(self, *command: str | Path, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
        """Run *command* in it as root, to its end, which must be *code* if one is given."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert code in {None, done.returncode}, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def systemctl(self, *words: str) -> str:
        """Have systemd do something; what it answered."""
        return self.run("systemctl", *words).stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the system."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.touch(mode)
        place.write_text(text, encoding="utf-8")

    def reach_database(self) -> None:
        """Have the database server's socket, as it is now, in the system's /run/postgresql.

        It alone: its folder is closed to all but the server's user, as everyone who gets there is trusted.
        """
        there = f"/run/postgresql/{_SOCKET}"
        self.run("bash", "-euc", f"mkdir -p /run/postgresql; touch {there}; ! mountpoint -q {there} || umount {there}")
        self.run("mount", "--bind", f"/srv/sockets/{_SOCKET}", there)

    def network(self) -> AbstractContextManager[None]:
        """Be in the system's network for the block: what this thread opens or starts there stays there."""
        return network_of(self.pid)


@frozen
class Service:
    """notifierd.service on a machine."""

    machine: Machine
    cursor: str
    """The journal's, from before the test."""

    def show(self, *properties: str) -> dict[str, str]:
        """The unit's *properties*, as ``systemctl show`` names them."""
        lines = self.machine.systemctl("show", UNIT, f"--property={','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def value(self, name: str) -> str:
        """One property."""
        return self.show(name)[name]

    def status(self) -> str:
        """What the service says of itself."""
        return self.value("StatusText")

    @property
    def pid(self) -> int:
        """The main process', as the machine counts."""
        return int(self.value("MainPID"))

    @property
    def proc(self) -> Path:
        """What the kernel tells of the main process."""
        return self.machine.root / f"proc/{self.pid}"

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for *condition*; if it never comes, show what systemd and the service say."""
        try:
            until(condition, what)
        except AssertionError:
            status = self.machine.run("systemctl", "status", "--no-pager", "--full", UNIT, code=None)
            pytest.fail(f"waited in vain for {what}\n{status.stdout}\n{self.journal_text()}")

    def kill(self, signum: signal.Signals) -> None:
        """Send the main process a signal, behind systemd's back."""
        self.machine.run("kill", f"-{signum.name.removeprefix('SIG')}", str(self.pid))

    def drop_in(self, text: str) -> None:
        """Give the service a drop-in for this test."""
        self.machine.write(f"/run/systemd/system/{UNIT}.d/test.conf", text)
        self.machine.systemctl("daemon-reload")

    def credential(self, name: str, secret: str) -> None:
        """Give the service a secret, as the manual says."""
        store = self.machine.root / "etc/credstore"
        store.mkdir(mode=0o700, exist_ok=True)
        self.machine.write(f"/etc/credstore/notifierd.{name}", secret + "\n", 0o600)

    def journal(self) -> list[dict[str, Any]]:
        """What the journal has of the unit's own processes since the test began, each entry with its fields."""
        # Not by journalctl's own filter: after a cursor, it leaves out the first entry that passes.
        entries = map(json.loads, self._journalctl("--output=json").splitlines())
        return [entry for entry in entries if entry.get("_SYSTEMD_UNIT") == UNIT]

    def journal_text(self) -> str:
        """What happened since the test began, for a person."""
        return self._journalctl()

    def _journalctl(self, *options: str) -> str:
        return self.machine.run("journalctl", "--no-pager", f"--after-cursor={self.cursor}", *options).stdout

    def logged(self) -> list[tuple[int, dict[str, Any]]]:
        """The log lines since the test began, with the priority that the journal gave each.

        Not what systemd itself says before it executes the unit's process, as that of Debian 13 does of credentials.
        """
        lines = [entry for entry in self.journal() if entry["_TRANSPORT"] == "stdout"]
        return [(int(entry["PRIORITY"]), json.loads(entry["MESSAGE"])) for entry in lines]

    def events(self) -> list[str]:
        """What happened since the test began, by the log."""
        return [line["event"] for _, line in self.logged()]


@contextmanager
def booted(cluster: Cluster, log: Path, *system: Path) -> Iterator[Machine]:
    """Boot a machine for the block; what comes of that goes to *log*.

    Args:
        system: the folder of another Debian, in which notifierd is not installed.
    """
    if os.geteuid() != 0:
        pytest.fail("these tests boot a systemd, which needs root: sudo make test-system", pytrace=False)
    boot: list[str | Path] = ["unshare", "--mount", BOOT, REPOSITORY, cluster.socket_dir, *system]
    with log.open("wb") as messages:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *boot],  # it must not outlive these tests, whatever ends them
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        )
    with process:
        assert process.stdout is not None
        try:
            ready = select.select([process.stdout], [], [], BOOT_SECONDS)[0]
            words = process.stdout.readline().split() if ready else []
            if not words:
                pytest.fail(f"no systemd was booted: {log.read_text()[-4000:]}", pytrace=False)
            machine = Machine(int(words[1]))
            try:
                _await_boot(machine)
                yield machine
            finally:
                os.kill(machine.pid, signal.SIGKILL)
                process.wait(PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, log.read_text()[-4000:]


def _await_boot(machine: Machine) -> None:
    # Asked by way of its socket, which is there from the moment that systemd takes orders.
    until((machine.root / "run/systemd/private").exists, "systemd")
    machine.run("systemctl", "is-system-running", "--wait", code=None)  # what else fails in a container is not ours
