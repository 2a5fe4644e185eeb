"""The Debian package that `make deb` builds: installed, upgraded under a running service, removed and purged.

On a Debian like this machine's, and on Debian 13, which mmdebstrap makes and the package is built in.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import frozen

from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.process import Servers, running_servers
from tests.support.daemon_process import OPEN, TODAY
from tests.support.processes import API_KEY, PASSWORD, VAPID_KEY, Place, invent, write_config
from tests.system.machine import REPOSITORY, UNIT, Machine, Service, booted

BY_HAND = (
    "/opt/notifierd",
    "/etc/notifierd",
    f"/etc/systemd/system/{UNIT}",
    "/etc/systemd/system/notifierd@.service",
    "/usr/local/bin/notifierd",
)
"""What boot.sh and other tests installed, as the manual says."""

NEWER = "9999.0.0-1"
SOURCE = ("release", "systemd", "config.toml", "constraints.txt", "CHANGELOG.md", "LICENSE", "notifierd/__init__.py")
"""What `release/deb` reads of the repository."""

NETWORK = ("/etc/resolv.conf", "/etc/ssl/certs")
"""What pip needs, of this machine, to reach a package index."""


@frozen
class Rig:
    """A machine, and two versions of the package as its paths: this checkout's, and the same with a higher number."""

    machine: Machine
    older: str
    newer: str

    def install(self, package: str) -> None:
        """Install *package*, or upgrade to it."""
        self.machine.run("dpkg", "--install", package)

    def has(self, path: str) -> bool:
        """Whether there is something at *path*, be it a link that leads nowhere."""
        place = self.machine.root / path.lstrip("/")
        return place.is_symlink() or place.exists()

    def configure(self, place: Place, **tables: Mapping[str, object]) -> None:
        """Edit the configuration that the package brought, as an operator does."""
        base: dict[str, Mapping[str, object]] = {"email": {"sender": place.sender}, "push": {"enabled": False}}
        write_config(self.machine.root / "etc/notifierd", {**base, **tables})


def debian_13(system: Path) -> None:
    """Make a small Debian 13 with systemd and Python."""
    include = "--include=ca-certificates,procps,python3,python3-venv,systemd,tzdata"
    same_id = '--customize-hook=systemd-machine-id-setup --root="$1"'  # without one, the first boot asks questions
    # In its own namespace: what mmdebstrap mounts goes with it, however it ends.
    command = ["mmdebstrap", "--quiet", "--variant=minbase", include, same_id, "trixie", str(system)]
    subprocess.run(["unshare", "--mount", *command], check=True)


def build_in(system: Path, wheel: Path) -> Path:
    """Build the package in *system*."""
    source, environment = system / "root/source", system / "root/environment"
    for name in SOURCE:
        there, copy = REPOSITORY / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if there.is_dir() else shutil.copy)(there, copy)
    shutil.copy(wheel, source)
    mounts = "".join(f'mount --bind "$(readlink -f {path})" "$1{path}"\n' for path in NETWORK)
    inside = "cd /root/source && python3 -m venv /root/environment && release/deb *.whl /root/environment/bin/python"
    script = f'{mounts}exec chroot "$1" bash -euc "$2"'
    subprocess.run(["unshare", "--mount", "bash", "-euc", script, "bash", system, inside], check=True)
    shutil.rmtree(environment)
    [built] = (source / "dist").glob("*.deb")
    return built


def with_a_higher_number(package: Path) -> Path:
    """Another package with the same files."""
    raw = package.with_suffix("")
    subprocess.run(["dpkg-deb", "--raw-extract", package, raw], check=True)
    control = raw / "DEBIAN/control"
    lines = [f"Version: {NEWER}" if line.startswith("Version: ") else line for line in control.read_text().splitlines()]
    control.write_text("\n".join(lines) + "\n")
    newer = package.with_name("newer.deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", raw, newer], check=True)
    return newer


@pytest.fixture(scope="module", params=["this Debian", "Debian 13"])
def rig(request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=REPOSITORY, check=True
    )
    [wheel] = folder.glob("*.whl")
    with ExitStack() as stack:
        if request.param == "Debian 13":
            debian_13(folder / "debian")
            built = build_in(folder / "debian", wheel)
            machine = stack.enter_context(booted(cluster, folder / "boot.log", folder / "debian"))
        else:
            subprocess.run([REPOSITORY / "release/deb", wheel, sys.executable, folder], cwd=REPOSITORY, check=True)
            [built] = folder.glob("*.deb")
            machine = request.getfixturevalue("machine")
        for path, name in ((built, "older.deb"), (with_a_higher_number(built), "newer.deb")):
            shutil.copy(path, machine.root / "opt" / name)
        yield Rig(machine, "/opt/older.deb", "/opt/newer.deb")


@pytest.fixture(scope="module")
def servers(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run the mail API and the push service on the machine's loopback."""
    with ExitStack() as stack:
        with rig.machine.network():
            running = stack.enter_context(running_servers(tmp_path_factory.mktemp("servers")))
        yield running


@pytest.fixture
def service(rig: Rig, place: Place) -> Iterator[Service]:
    """A machine without notifierd, but with secrets for it; what was installed by hand is put aside meanwhile."""
    machine = rig.machine
    machine.run("systemctl", "disable", UNIT, code=None)  # other tests follow the manual, and enable it
    for path in BY_HAND:
        machine.run("bash", "-c", f"[ ! -e {path} ] || mv {path} {path}.aside")
    machine.systemctl("daemon-reload")
    machine.reach_database()
    shown = machine.run("journalctl", "--no-pager", "--lines=0", "--show-cursor").stdout
    made = Service(machine, shown.partition("-- cursor: ")[2].strip())
    made.credential("database.dsn", f"postgresql://{place.role}:{PASSWORD}@/{place.database}?host=/run/postgresql")
    made.credential("email.resend.api_key", API_KEY)
    made.credential("push.vapid_private_key", VAPID_KEY)
    yield made
    sys.stdout.write(made.journal_text())  # which a failing test shows
    machine.run("dpkg", "--purge", "notifierd", code=None)
    machine.run("systemctl", "reset-failed", UNIT, code=None)
    machine.run("rm", "-rf", "/etc/credstore", "/etc/notifierd")
    for path in BY_HAND:
        machine.run("bash", "-c", f"[ ! -e {path}.aside ] || mv {path}.aside {path}")
    machine.systemctl("daemon-reload")


def is_active(machine: Machine, unit: str) -> bool:
    return machine.run("systemctl", "is-active", unit, code=None).stdout.strip() == "active"


def test_installed_it_is_neither_enabled_nor_started_and_makes_no_user(service: Service, rig: Rig):
    machine = rig.machine
    users = (machine.root / "etc/passwd").read_text()
    rig.install(rig.older)
    assert service.show("LoadState", "ActiveState", "UnitFileState") == {
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "UnitFileState": "disabled",
    }
    assert (machine.root / "etc/passwd").read_text() == users
    assert (machine.root / "etc/notifierd/config.toml").read_text() == (REPOSITORY / "config.toml").read_text()
    assert machine.run("notifierd", "--version").stdout.startswith("notifierd, version ")
    done = machine.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{UNIT}")
    assert (done.stdout, done.stderr) == ("", "")
    machine.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=11", UNIT)
    template = (machine.root / "usr/lib/systemd/system/notifierd@.service").read_text()
    assert "ExecStart=/usr/lib/notifierd/bin/notifierd " in template
    assert "/opt/" not in template


def test_it_is_upgraded_under_a_running_service_which_keeps_its_configuration(service: Service, rig: Rig, place: Place):
    machine = rig.machine
    rig.install(rig.older)
    rig.configure(place)
    before = (machine.root / "etc/notifierd/config.toml").read_text()
    machine.systemctl("enable", "--now", UNIT)
    pid = service.pid
    machine.systemctl("reload", UNIT)
    service.until("the reload", lambda: "reloaded" in service.events())
    machine.systemctl("start", "notifierd@2")
    rig.install(rig.newer)
    service.until("the service", lambda: service.value("ActiveState") == "active")
    service.until("the second daemon", lambda: is_active(machine, "notifierd@2"))
    assert not is_active(machine, "notifierd@1")
    machine.systemctl("stop", "notifierd@2")
    assert service.pid != pid
    assert "Result=success" in machine.systemctl("show", UNIT, "--property=Result")
    assert (machine.root / "etc/notifierd/config.toml").read_text() == before
    assert NEWER in machine.run("dpkg-query", "--show", "notifierd").stdout


def test_upgraded_in_a_run_it_goes_on_and_tells_everybody_once(service: Service, rig: Rig, place: Place):
    """The providers answer nothing while the package is replaced: calls are in flight when the service stops."""
    place.load(invent(30, push_url=place.servers.push_url, day=TODAY))
    rig.install(rig.older)
    rig.configure(
        place,
        **{
            "window": OPEN,
            "limits": {"shutdown_grace": 1.0, "send_timeout": 3.0},
            "email.resend": {"base_url": place.servers.mail_url},
            "push": {"allowed_hosts": ["127.0.0.1"], "allow_private_addresses": True},
        },
    )
    with place.frozen_servers():
        rig.machine.systemctl("start", UNIT)
        service.until("calls in flight", lambda: place.states()["sending"] > 0)
        rig.install(rig.newer)
    service.until("the end of the run", lambda: place.states() == {"sent": 4 * 30})
    assert len(place.mails()) == len({mail.delivery_id for mail in place.mails()}) == 2 * 30


def test_an_upgrade_leaves_a_service_stopped_that_was_stopped(service: Service, rig: Rig, place: Place):
    rig.install(rig.older)
    rig.configure(place)
    rig.install(rig.newer)
    assert service.value("ActiveState") == "inactive"


def test_removed_it_leaves_its_configuration_and_purged_nothing_of_its_own(service: Service, rig: Rig, place: Place):
    machine = rig.machine
    rig.install(rig.older)
    rig.configure(place)
    machine.systemctl("enable", "--now", UNIT)
    machine.run("dpkg", "--remove", "notifierd")
    assert service.value("LoadState") == "not-found"
    left = ("/etc/notifierd/config.toml", "/etc/systemd/system/multi-user.target.wants/notifierd.service")
    assert rig.has(left[0])
    machine.run("dpkg", "--purge", "notifierd")
    gone = ("/etc/notifierd", left[1], "/usr/lib/notifierd", "/usr/bin/notifierd", f"/usr/lib/systemd/system/{UNIT}")
    assert [path for path in gone if rig.has(path)] == []
    assert rig.has("/etc/credstore/notifierd.database.dsn")  # the operator's own
