"""The Debian package that `make deb` builds: installed, upgraded under a running service, removed and purged."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.processes import API_KEY, PASSWORD, VAPID_KEY, Place, write_config
from tests.system.machine import REPOSITORY, UNIT, Machine, Service

BY_HAND = ("/opt/notifierd", "/etc/notifierd", f"/etc/systemd/system/{UNIT}", "/usr/local/bin/notifierd")
"""What boot.sh installed, as the manual says."""

NEWER = "9999.0.0-1"


@pytest.fixture(scope="module")
def packages(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two versions, as paths of the machine: the one of this checkout, and the same with a higher number."""
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=REPOSITORY, check=True
    )
    [wheel] = folder.glob("*.whl")
    subprocess.run([REPOSITORY / "release/deb", wheel, sys.executable, folder], cwd=REPOSITORY, check=True)
    [built] = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", built, folder / "raw"], check=True)
    control = folder / "raw/DEBIAN/control"
    lines = [f"Version: {NEWER}" if line.startswith("Version: ") else line for line in control.read_text().splitlines()]
    control.write_text("\n".join(lines) + "\n")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", folder / "raw", folder / "newer.deb"], check=True
    )
    for path, name in ((built, "one.deb"), (folder / "newer.deb", "two.deb")):
        (machine.root / "opt" / name).write_bytes(path.read_bytes())
    return "/opt/one.deb", "/opt/two.deb"


@pytest.fixture
def service(machine: Machine, place: Place) -> Iterator[Service]:
    """A machine without notifierd, but with secrets for it; what was installed by hand is put aside meanwhile."""
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


def configure(machine: Machine, place: Place) -> None:
    """Edit the configuration that the package brought, as an operator does."""
    write_config(machine.root / "etc/notifierd", {"email": {"sender": place.sender}, "push": {"enabled": False}})


def test_installed_it_is_neither_enabled_nor_started_and_makes_no_user(service: Service, packages: tuple[str, str]):
    machine = service.machine
    users = (machine.root / "etc/passwd").read_text()
    machine.run("dpkg", "--install", packages[0])
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


def test_it_is_upgraded_under_a_running_service_which_keeps_its_configuration(
    service: Service, packages: tuple[str, str], place: Place
):
    machine = service.machine
    machine.run("dpkg", "--install", packages[0])
    configure(machine, place)
    before = (machine.root / "etc/notifierd/config.toml").read_text()
    machine.systemctl("enable", "--now", UNIT)
    pid = service.pid
    machine.run("dpkg", "--install", packages[1])
    service.until("the service", lambda: service.value("ActiveState") == "active")
    assert service.pid != pid
    assert "Result=success" in machine.systemctl("show", UNIT, "--property=Result")
    assert (machine.root / "etc/notifierd/config.toml").read_text() == before
    assert NEWER in machine.run("dpkg-query", "--show", "notifierd").stdout


def test_an_upgrade_leaves_a_service_stopped_that_was_stopped(
    service: Service, packages: tuple[str, str], place: Place
):
    machine = service.machine
    machine.run("dpkg", "--install", packages[0])
    configure(machine, place)
    machine.run("dpkg", "--install", packages[1])
    assert service.value("ActiveState") == "inactive"


def test_removed_it_leaves_its_configuration_and_purged_nothing_of_its_own(
    service: Service, packages: tuple[str, str], place: Place
):
    machine = service.machine
    machine.run("dpkg", "--install", packages[0])
    configure(machine, place)
    machine.systemctl("enable", "--now", UNIT)
    machine.run("dpkg", "--remove", "notifierd")
    assert service.value("LoadState") == "not-found"
    left = ("/etc/notifierd/config.toml", "/etc/systemd/system/multi-user.target.wants/notifierd.service")
    assert (machine.root / left[0].lstrip("/")).exists()
    machine.run("dpkg", "--purge", "notifierd")
    gone = ("/etc/notifierd", left[1], "/usr/lib/notifierd", "/usr/bin/notifierd", f"/usr/lib/systemd/system/{UNIT}")
    assert [
        path
        for path in gone
        if (machine.root / path.lstrip("/")).is_symlink() or (machine.root / path.lstrip("/")).exists()
    ] == []
    assert (machine.root / "etc/credstore/notifierd.database.dsn").exists()  # the operator's own
