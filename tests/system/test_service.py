"""notifierd.service, as it stands in systemd/, under a real systemd: what an operator does, and what befalls it."""

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from attrs import define, evolve

from notifierd.config.keys import key_of
from notifierd.config.load import keys
from notifierd.config.settings import WindowSettings
from notifierd.demo.application import Rows
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.process import Servers, running_servers
from notifierd.rules.calendar import Calendar
from tests.support.hostile import METADATA
from tests.support.manual import blocks
from tests.support.processes import API_KEY, DAY, DOMAIN, PASSWORD, VAPID_KEY, Place, invent, write_config
from tests.system import probe
from tests.system.machine import REPOSITORY, UNIT, Machine, Service
from tests.system.names import name_server

# It is about noon there, so that no test meets the end of a day.
NAME = "api.mail.example.jp"
ZONE = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
ANY_DAY: Mapping[str, object] = {"timezone": ZONE, "closed_weekdays": [], "holidays": ""}
ASLEEP = {**ANY_DAY, "at": "01:00", "until": "02:00"}
AWAKE = {**ANY_DAY, "at": "01:00", "until": "23:00"}


@define
class Installation:
    """The service, installed as the manual says, beside an application with nobody to tell."""

    service: Service
    place: Place
    mail_url: str

    def configure(self, **tables: Mapping[str, object]) -> None:
        """Write /etc/notifierd/config.toml, without a secret in it: a daemon that sleeps, and *tables* over that."""
        base: dict[str, Mapping[str, object]] = {
            "window": ASLEEP,
            "email": {"sender": self.place.sender},
            "email.resend": {"base_url": self.mail_url},
            "push": {"allowed_hosts": ["127.0.0.1"], "allow_private_addresses": True},
        }
        folder = self.service.machine.root / "etc/notifierd"
        folder.mkdir(exist_ok=True)
        write_config(folder, {name: {**base.get(name, {}), **tables.get(name, {})} for name in {**base, **tables}})

    def systemctl(self, *words: str) -> None:
        """Have systemd do it, which it must be able to."""
        self.service.machine.systemctl(*words, UNIT)

    def today(self) -> date:
        """The business day that it is there."""
        return Calendar(WindowSettings(timezone=ZONE)).today(datetime.now(UTC))

    def invent(self, offices: int) -> Rows:
        """Fill the application: two members in each office, each with a device and something due today."""
        rows = invent(offices, push_url=self.place.servers.push_url)
        late = self.today() - DAY
        cycles = [evolve(cycle, deadline=cycle.deadline and cycle.deadline + late) for cycle in rows.cycles]
        rows = evolve(rows, cycles=tuple(cycles))
        self.place.load(rows)
        return rows


@pytest.fixture(scope="module")
def servers(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run the mail API and the push service on the machine's loopback."""
    with ExitStack() as stack:
        with machine.network():
            running = stack.enter_context(running_servers(tmp_path_factory.mktemp("servers")))
        yield running


@pytest.fixture
def installation(machine: Machine, place: Place) -> Iterator[Installation]:
    machine.reach_database()
    shown = machine.run("journalctl", "--no-pager", "--lines=0", "--show-cursor").stdout
    cursor = shown.partition("-- cursor: ")[2].strip()
    service = Service(machine, cursor)
    made = Installation(service, place, place.servers.mail_url)
    made.configure()
    service.credential("database.dsn", f"postgresql://{place.role}:{PASSWORD}@/{place.database}?host=/run/postgresql")
    service.credential("email.resend.api_key", API_KEY)
    service.credential("push.vapid_private_key", VAPID_KEY)
    yield made
    sys.stdout.write(service.journal_text())  # which a failing test shows
    machine.run("systemctl", "kill", "--signal=KILL", UNIT, code=None)
    machine.run("systemctl", "stop", UNIT)
    machine.run("systemctl", "reset-failed", UNIT, code=None)
    machine.run(
        *("rm", "-rf", f"/run/systemd/system/{UNIT}.d", f"/etc/systemd/system/{UNIT}.d"),
        *("/etc/credstore", "/etc/credstore.encrypted", "/etc/notifierd"),
    )
    machine.systemctl("daemon-reload")


# ------------------------------------------------------------------------------------------------ start and stop


def test_it_starts_and_says_when_it_will_run(installation: Installation):
    service = installation.service
    installation.systemctl("start")  # returns when the service has said READY=1
    assert service.show("ActiveState", "SubState", "Result", "NRestarts") == {
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        "NRestarts": "0",
    }
    service.until("the first status", lambda: service.status().startswith("sleeping until "))
    assert " 01:00 " in service.status()


def test_its_log_lines_are_json_with_their_priority(installation: Installation):
    service = installation.service
    installation.systemctl("start")
    service.until("its log lines", lambda: "sleeping" in service.events())
    assert (6, "ready") in [(priority, line["event"]) for priority, line in service.logged()]
    assert {entry["_TRANSPORT"] for entry in service.journal()} == {"stdout"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in service.journal()} == {"notifierd"}


def test_asked_what_goes_on_it_says_so_in_the_log(installation: Installation):
    service = installation.service
    installation.systemctl("start")
    installation.systemctl("kill", "--signal=USR1", "--kill-whom=main")
    service.until("its state", lambda: "state" in service.events())
    assert service.value("ActiveState") == "active"


def test_its_page_and_its_metrics_are_served_and_asleep_it_is_small(installation: Installation):
    """In its sandbox, where /proc has processes and nothing else."""
    service = installation.service
    installation.systemctl("start")
    get = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1]).read().decode())"

    def page(path: str) -> str:
        return service.machine.run("/opt/notifierd/bin/python", "-c", get, f"http://127.0.0.1:9464{path}").stdout

    assert page("/readyz") == "ready\n"
    assert page("/").startswith("<!doctype html>")
    scraped = dict(line.split(" ") for line in page("/metrics").splitlines() if not line.startswith("#"))
    assert float(scraped["process_resident_memory_bytes"]) <= 85 * 2**20
    assert float(scraped["process_open_fds"]) > 3


def test_a_check_by_hand_finds_the_services_secrets(installation: Installation):
    """Here the application has none of the indexes that it is advised to have, which is worth a warning."""
    notifierd = ("/opt/notifierd/bin/notifierd", "--config", "/etc/notifierd/config.toml")
    machine = installation.service.machine
    done = machine.run("env", "CREDENTIALS_DIRECTORY=/etc/credstore", *notifierd, "check", "--json")
    assert {finding["level"] for finding in json.loads(done.stdout)} == {"ok", "warn"}
    machine.run(*notifierd, "check", code=2)


@pytest.mark.parametrize("folder", ["/etc/credstore", f"/run/credentials/{UNIT}"])
def test_a_command_that_an_alarm_names_is_run_by_root_with_the_services_secrets(
    installation: Installation, folder: str
):
    """As the manual says under "Commands on the server"."""
    assert folder in (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    installation.systemctl("start")
    command = f"cd / && export CREDENTIALS_DIRECTORY={folder} && /usr/local/bin/notifierd status --json"
    done = installation.service.machine.run("bash", "-c", command)
    assert json.loads(done.stdout)["today"]


def test_stopped_asleep_it_has_succeeded(installation: Installation):
    service = installation.service
    installation.systemctl("start")
    installation.systemctl("stop")
    assert service.show("ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }


def test_it_waits_for_its_database_longer_than_a_start_may_take(installation: Installation, cluster: Cluster):
    service = installation.service
    service.drop_in("[Service]\nTimeoutStartSec=8s\n")
    cluster.stop()
    try:
        installation.systemctl("start", "--no-block")
        began = time.monotonic()
        service.until("a word of it", lambda: service.status().startswith("waiting for the database"))
        # Not a hope: what is shown is that it is still there, after a time at which systemd would have ended it.
        time.sleep(began + 9.0 - time.monotonic())
        assert service.show("ActiveState", "NRestarts") == {"ActiveState": "activating", "NRestarts": "0"}
    finally:
        cluster.start()
        service.machine.reach_database()
    service.until("the service", lambda: service.value("ActiveState") == "active")
    assert service.value("NRestarts") == "0"


def test_a_configuration_that_cannot_be_used_is_tried_until_it_can(installation: Installation):
    service = installation.service
    service.drop_in("[Service]\nRestartSec=100ms\n")
    installation.configure(window={"at": "late"})
    installation.systemctl("start", "--no-block")
    # systemd would give up after five starts, were StartLimitIntervalSec not 0.
    service.until("seven tries", lambda: int(service.value("NRestarts")) >= 7)
    complaints = [entry for entry in service.journal() if "window.at: " in entry["MESSAGE"]]
    assert {entry["PRIORITY"] for entry in complaints} == {"3"}
    installation.configure()
    service.until("the service", lambda: service.value("ActiveState") == "active")


# ------------------------------------------------------------------------------------------------------- secrets


def test_every_secret_can_be_given_and_is_the_services_alone(installation: Installation):
    service, machine = installation.service, installation.service.machine
    secrets = {
        "email.sendgrid.api_key": "SG.of-the-tests",
        "email.postmark.server_token": "postmark-of-the-tests",
        "email.mailgun.api_key": "mailgun-of-the-tests",
        "email.ses.secret_access_key": "ses-of-the-tests",
        "email.ses.session_token": "session-of-the-tests",
        "email.gmail.service_account": '{"client_email": "robot@example.jp", "private_key": "key-of-the-tests"}',
        "network.proxy": "http://user:proxy-of-the-tests@127.0.0.1:9",
        "email.resend.feedback_key": "resend-feedback-of-the-tests",
        "email.sendgrid.feedback_key": "sendgrid-feedback-of-the-tests",
        "email.postmark.feedback_key": "postmark-feedback-of-the-tests",
        "email.mailgun.feedback_key": "mailgun-feedback-of-the-tests",
        "email.smtp.password": "smtp-of-the-tests",
        "http.token": "token-of-the-tests",
        "watch.webhook_url": "https://example.jp/webhook-of-the-tests",
        "watch.webhook_token": "chatwork-of-the-tests",
        "watch.ping_url": "https://example.jp/ping-of-the-tests",
    }
    for name, secret in secrets.items():
        service.credential(name, secret)
    installation.systemctl("start")

    folder = f"/run/credentials/{UNIT}"
    there = machine.root / folder.lstrip("/")
    assert {path.name for path in there.iterdir()} == {name for name, field in keys() if key_of(field).secret}
    assert all((there / name).read_text() == secret + "\n" for name, secret in secrets.items())
    # Readable to a user that is not root, who reads them, and to nobody else.
    uid = (service.proc / "status").stat().st_uid
    assert uid != 0
    machine.run("setpriv", f"--reuid={uid}", "--clear-groups", "cat", f"{folder}/http.token")
    machine.run("setpriv", "--reuid=nobody", "--clear-groups", "cat", f"{folder}/http.token", code=1)
    # Neither what they come from nor what they become is there for anybody else.
    machine.run("setpriv", f"--reuid={uid}", "--clear-groups", "ls", "/etc/credstore", code=2)
    environment = (service.proc / "environ").read_text() + (service.proc / "cmdline").read_text()
    assert "CREDENTIALS_DIRECTORY" in environment
    assert not [secret for secret in secrets.values() if secret in environment]


def test_a_secret_may_be_encrypted(installation: Installation):
    service, machine = installation.service, installation.service.machine
    name = "email.resend.api_key"
    machine.run("rm", f"/etc/credstore/notifierd.{name}")
    machine.run("mkdir", "/etc/credstore.encrypted")
    machine.write("/run/plain", "re_encrypted", 0o600)
    place = f"/etc/credstore.encrypted/notifierd.{name}"
    machine.run("systemd-creds", "encrypt", "--with-key=host", f"--name={name}", "/run/plain", place)
    service.drop_in(f"[Service]\nLoadCredentialEncrypted={name}:notifierd.{name}\n")
    installation.systemctl("start")
    assert (machine.root / f"run/credentials/{UNIT}/{name}").read_text() == "re_encrypted"


# ------------------------------------------------------------------------------------------------------- sandbox


def test_the_sandbox_forbids_what_the_service_does_not_need(installation: Installation):
    """The probe runs in the service's place, and once more as root, to show that it would find the doors."""
    service, machine = installation.service, installation.service.machine
    machine.write("/opt/probe.py", Path(probe.__file__).read_text())
    addresses = [address for address in METADATA if not address.startswith("fe80:")]  # which are of no use on loopback
    command = ["/opt/notifierd/bin/python", "/opt/probe.py", *addresses]
    in_its_place = f"ExecReload=\nExecStart=\nExecStart={' '.join(command)}\n"
    service.drop_in(f"[Service]\nType=oneshot\nRestart=no\n{in_its_place}")
    with ExitStack() as stack:
        with machine.network():
            for host in (probe.LOOPBACK, *addresses):
                stack.enter_context(listening(machine, host))
        as_root = json.loads(machine.run(*command).stdout)
        installation.systemctl("start")
    [found] = [json.loads(entry["MESSAGE"]) for entry in service.journal()]
    allowed = [name for name, succeeded in found.items() if succeeded]
    ports = ["listen at another port", "listen at any port"]
    # systemd keeps ports closed by BPF, and where it was built without says nothing of SocketBindDeny=.
    expected = ports if "-BPF_FRAMEWORK" in machine.systemctl("--version") else []
    assert allowed == [
        *("connect to loopback", "listen at the page's port", "write to its own /tmp"),
        *("execute a program of the system", *expected),
    ]
    assert as_root == dict.fromkeys(found, True)


def test_no_place_is_both_writable_and_executable(installation: Installation):
    """Mount by mount, as each of those that systemd makes for a service has options of its own."""
    installation.systemctl("start")
    options: dict[str, set[str]] = {}
    for line in (installation.service.proc / "mountinfo").read_text().splitlines():
        words = line.split()
        options[words[4]] = set(words[5].split(","))  # the last one at a place covers the others
    both = [place for place, found in options.items() if not found & {"ro", "noexec"}]
    assert [place for place in both if not place.startswith("/sys/")] == []  # what lies there is the kernel's
    programs = options["/opt/notifierd"] & options["/usr"]
    assert ("ro" in programs, "noexec" in programs) == (True, False)
    assert "noexec" in options["/"]


def test_an_interpreter_that_lies_elsewhere_has_its_drop_in(installation: Installation):
    service, machine = installation.service, installation.service.machine
    drop_in = "ExecPaths=/opt/python\nBindReadOnlyPaths=/opt/python\n"
    assert drop_in in (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8").replace("  ", "")
    link, there = "/opt/notifierd/bin/python3", "/opt/python/bin/python3"
    before = machine.run("readlink", link).stdout.strip()
    machine.run("install", "-D", before, there)
    machine.run("ln", "-sf", there, link)
    try:
        installation.systemctl("start", "--no-block")
        service.until("a refusal", lambda: "status=203/EXEC" in service.journal_text())
        service.drop_in(f"[Service]\n{drop_in}")
        installation.systemctl("restart")
        assert service.value("ActiveState") == "active"
        assert str((service.proc / "exe").readlink()) == there
    finally:
        machine.run("ln", "-sf", before, link)


@contextmanager
def listening(machine: Machine, host: str) -> Iterator[None]:
    """Have *host* be an address of the machine, in whose network this is called, where somebody takes connections."""
    v6 = ":" in host
    if not host.startswith("127."):
        words = (f"{host}/128", "dev", "lo", "nodad") if v6 else (f"{host}/32", "dev", "lo")
        machine.run("ip", "address", "replace", *words)
    with socket.create_server((host, probe.PORT), family=socket.AF_INET6 if v6 else socket.AF_INET):
        yield


# -------------------------------------------------------------------------------------------------------- reload


def test_a_reload_puts_a_changed_configuration_in_force(installation: Installation):
    service = installation.service
    installation.systemctl("start")
    pid = service.pid
    installation.configure(window={**ASLEEP, "at": "01:30"})
    installation.systemctl("reload")
    service.until("the new hour", lambda: " 01:30 " in service.status())
    assert (service.pid, service.value("ActiveState")) == (pid, "active")


def test_a_reload_of_a_broken_configuration_changes_nothing(installation: Installation):
    service = installation.service
    installation.systemctl("start")
    service.until("the first status", lambda: " 01:00 " in service.status())
    pid = service.pid
    installation.configure(window={**ASLEEP, "at": "late"})
    installation.systemctl("reload")
    service.until("the refusal", lambda: "reload refused" in service.status())
    assert " 01:00 " in service.status()
    assert "window.at: " in service.status()
    assert (service.pid, service.value("ActiveState")) == (pid, "active")
    assert (3, "reload_refused") in [(priority, line["event"]) for priority, line in service.logged()]


# ------------------------------------------------------------------------------------------------- what befalls it


def test_frozen_it_is_started_anew_by_the_watchdog(installation: Installation):
    service = installation.service
    service.drop_in("[Service]\nWatchdogSec=3s\n")
    installation.systemctl("start")
    pid = service.pid
    service.kill(signal.SIGSTOP)
    service.until("a restart", lambda: service.value("NRestarts") == "1")
    service.until("the service", lambda: service.value("ActiveState") == "active")
    assert service.pid != pid
    assert "Watchdog timeout" in service.journal_text()


def test_the_watchdog_leaves_it_alone_while_it_sleeps(installation: Installation):
    service = installation.service
    service.drop_in("[Service]\nWatchdogSec=5s\n")
    installation.systemctl("start")
    fed = int(service.value("WatchdogTimestampMonotonic"))
    service.until(
        "ten seconds of being fed", lambda: int(service.value("WatchdogTimestampMonotonic")) - fed > 10_000_000
    )
    assert service.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_killed_it_is_started_anew(installation: Installation):
    service = installation.service
    installation.systemctl("start")
    service.kill(signal.SIGKILL)
    service.until("a restart", lambda: service.value("NRestarts") == "1")
    service.until("the service", lambda: service.value("ActiveState") == "active")


# -------------------------------------------------------------------------------------------------------- a day


def test_a_days_run_sends_everything_from_within_the_sandbox(installation: Installation):
    """The provider is found by its name, over DNS, as it is in the field."""
    service, place, machine = installation.service, installation.place, installation.service.machine
    rows = installation.invent(30)
    port = place.servers.mail_url.rpartition(":")[2]
    installation.configure(window=AWAKE, **{"email.resend": {"base_url": f"http://{NAME}:{port}"}})
    machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    with ExitStack() as stack:
        with machine.network():
            stack.enter_context(name_server({NAME: [["127.0.0.1"]]}))
        installation.systemctl("start")
        service.until("the end of the run", lambda: "report" in service.events())
    assert place.states() == {"sent": 4 * 30}
    assert sorted(mail.to[0] for mail in place.mails()) == sorted(member.email for member in rows.staff)
    assert len(place.pushes()) == 2 * 30
    assert f"last run {installation.today()} completed: 60 mails, 60 pushes sent, 0 not" in service.status()
    [report] = [line for _, line in service.logged() if line["event"] == "report"]
    assert (report["email"]["sent"], report["push"]["sent"]) == (60, 60)
    text = service.journal_text()
    assert not [secret for secret in (API_KEY, PASSWORD, VAPID_KEY, f"@{DOMAIN}") if secret in text]


def test_stopped_in_a_run_it_has_succeeded_and_the_next_start_goes_on(installation: Installation):
    service, place = installation.service, installation.place
    installation.invent(30)
    installation.configure(window=AWAKE, limits={"shutdown_grace": 1.0, "send_timeout": 3.0})
    with place.frozen_servers():
        installation.systemctl("start")
        service.until("calls in flight", lambda: place.states()["sending"] > 0)
        installation.systemctl("stop")
    assert service.show("ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "4",
    }
    installation.systemctl("start")
    service.until("the end of the run", lambda: place.states() == {"sent": 4 * 30})
    assert len(place.mails()) == len({mail.delivery_id for mail in place.mails()}) == 2 * 30


def test_killed_in_a_run_it_goes_on_after_the_restart(installation: Installation):
    service, place = installation.service, installation.place
    installation.invent(30)
    installation.configure(window=AWAKE, limits={"send_timeout": 3.0})
    with place.frozen_servers():
        installation.systemctl("start")
        service.until("calls in flight", lambda: place.states()["sending"] > 0)
        service.kill(signal.SIGKILL)
    service.until("the end of the run", lambda: place.states() == {"sent": 4 * 30})
    assert len(place.mails()) == len({mail.delivery_id for mail in place.mails()}) == 2 * 30
    assert service.value("NRestarts") == "1"


# ----------------------------------------------------------------------------------------- several on this machine


def test_several_on_one_machine_share_the_day(installation: Installation):
    """Installed by the manual's page about them, while the window is open. Each has a page of its own."""
    service, place = installation.service, installation.place
    machine = service.machine
    installation.invent(30)
    installation.configure(
        window=AWAKE, cluster={"share": True}, limits={"email": 4, "shutdown_grace": 1.0, "send_timeout": 3.0}
    )
    lines = [block.text for block in blocks("docs/several-daemons.md") if block.remark == "run by tests/system"]
    try:
        with place.frozen_servers():
            machine.run("bash", "-euxc", f"cd /srv/notifierd\n{''.join(lines)}")
            named = "select string_agg(host, ' ' order by host) from notifierd.run_members"
            host = machine.run("hostname", "--short").stdout.strip()
            service.until("both", lambda: place.sql(named) == f"{host}-1 {host}-2")
            get = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1]).read().decode())"
            for port in (9471, 9472):
                shown = machine.run("/opt/notifierd/bin/python", "-c", get, f"http://127.0.0.1:{port}/metrics").stdout
                assert "notifierd_run_in_progress 1.0" in shown
        service.until("the end of the run", lambda: place.states() == {"sent": 4 * 30})
        assert len(place.mails()) == len({mail.delivery_id for mail in place.mails()}) == 2 * 30
    finally:
        machine.run("systemctl", "disable", "--now", "notifierd@1", "notifierd@2", code=None)


# ----------------------------------------------------------------------------------------------------- the manual


def test_what_the_manual_has_an_operator_do_can_be_done(installation: Installation):
    """From the check and the encrypted key to the upgrade; boot.sh installed by the same page."""
    service, machine = installation.service, installation.service.machine
    lines = [block.text for block in blocks("docs/operations.md") if block.remark == "run by tests/system"]
    admin = f"postgresql://postgres@/{installation.place.database}?host=/run/postgresql"
    script = f"export PATH=/usr/local/bin:$PATH ADMIN='{admin}'; cd /srv/notifierd\n{''.join(lines)}"
    assert [line for line in ("reload", "db migrate", "systemd-creds") if line not in script] == []
    machine.run("bash", "-euxc", script)
    service.until("the service", lambda: service.status().startswith("sleeping until "))
    assert service.show("ActiveState", "UnitFileState", "NRestarts") == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "NRestarts": "0",
    }
    assert (machine.root / f"run/credentials/{UNIT}/email.resend.api_key").read_text() == API_KEY + "\n"
    assert "state" in service.events()
