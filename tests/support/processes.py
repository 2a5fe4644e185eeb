"""notifierd as its users run it: a process of its own beside a database, with providers behind real HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid5

import httpx
from attrs import frozen

from notifierd.demo.application import Cycle, Device, Link, Office, Recipient, Rows, Staff, rows_sql, tables_sql
from notifierd.demo.postgres import Cluster, running_postgres
from notifierd.demo.servers.mail_api import AcceptedMail
from notifierd.demo.servers.process import Servers, running_servers
from notifierd.demo.servers.push_service import AcceptedPush
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, ServersConfig
from notifierd.send.vapid import make_vapid_key
from notifierd.store.sql import ADDRESS_KEY
from tests.support.pooler import Pooler

DAY = date(2026, 11, 24)
"""A Tuesday: the day that every test runs, unless it is about the calendar."""

PATIENCE = 180.0
"""Seconds after which a process that should have ended, or a state that should have come, is a failure."""

DOMAIN = "mail.example.jp"
"""Of every address here: none may ever be seen."""

API_KEY = "re_secret_of_the_tests"
PASSWORD = "password-of-the-tests"
VAPID_KEY, _ = make_vapid_key()
PHONE_PRIVATE, PHONE_PUBLIC = make_vapid_key()  # RFC 8291 wants a key on the same curve
SECRETS = (API_KEY, PASSWORD, VAPID_KEY)

KEYLESS = str(Path(__file__).with_name("keyless.py"))
LEDGER = (
    *("runs", "run_offices", "deliveries", "late_outcomes", "alarms", "migrations"),
    *("feedback", "feedback_looks", "holds", "lifts"),
)
APPLICATION = ("offices", "staffs", "office_staffs", "push_subscriptions", "audit_logs")

Tables = Mapping[str, Mapping[str, object]]

_numbers = count(1)


@frozen
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object that is all there is on stdout."""
        assert self.out.count("\n") == 1, f"{self.out}\n{self.err}"
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


# ------------------------------------------------------------------------------------------------ running a command


@contextmanager
def running(
    *args: str | Path,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    by: Sequence[str | Path] = (),
    program: Sequence[str] = ("-m", "notifierd"),
) -> "Iterator[subprocess.Popen[str]]":
    """Start ``notifierd`` with *args*; what is left of it at the end of the block is killed.

    Args:
        by: a command that runs the one that follows it.
        program: what Python is to run.
    """
    # Nothing of the caller's own settings; all else goes on, as subprocesses are measured by variables too.
    own = ("NOTIFIERD_", "CREDENTIALS_", "FORCE_COLOR", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    process = subprocess.Popen(
        [*by, sys.executable, *program, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=inherited | {"COLUMNS": "200"} | dict(environ or {}),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: "subprocess.Popen[str]", code: int | None = None) -> Done:
    """Wait for the end."""
    began = time.monotonic()
    out, err = process.communicate(timeout=PATIENCE)
    return expected_end(presentable(Done(process.returncode, out, err, time.monotonic() - began)), code)


def expected_end(done: Done, code: int | None) -> Done:
    """The end must be *code* if one is given."""
    assert code in {None, done.code}, f"exit {done.code}\n{done.out}\n{done.err}"
    return done


def presentable(done: Done) -> Done:
    """Whatever was done, it showed neither a traceback nor a secret nor anybody's address."""
    for forbidden in ("Traceback", *SECRETS, f"@{DOMAIN}"):
        assert forbidden not in done.out + done.err, done.out + done.err
    return done


def run(*args: str | Path, cwd: Path, environ: Mapping[str, str] | None = None, code: int | None = None) -> Done:
    """Run ``notifierd`` to its end, which must be *code* if one is given.

    It starts from nothing, or, within ``forked``, from a process that has imported it.
    """
    if _forking:
        return expected_end(_forking[-1](*map(str, args), cwd=cwd, environ=environ or {}), code)
    with running(*args, cwd=cwd, environ=environ) as process:
        return ended(process, code)


_forking: list[Callable[..., Done]] = []


@contextmanager
def forked(command: Callable[..., Done]) -> Iterator[None]:
    """Have ``run`` run each command by *command*, ``Warm.run``, for the length of the block."""
    _forking.append(command)
    try:
        yield
    finally:
        _forking.pop()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for *condition*."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


# --------------------------------------------------------------------------------------------------- a place to run


@frozen
class Place:
    """An application with notifierd beside it: a database, providers, and a folder with ``config.toml``.

    Attributes:
        seen: mails and pushes that the servers had accepted before.
        pooler: the pooler in front of the database, if there is one.
    """

    folder: Path
    cluster: Cluster
    database: str
    role: str
    servers: Servers
    seen: tuple[int, int]
    pooler: Pooler | None = None

    @property
    def dsn(self) -> str:
        """For the daemon's own role, with a password, though nobody asks for it here."""
        return (self.pooler or self.cluster).dsn(self.database, f"{self.role}:{PASSWORD}")

    @property
    def sender(self) -> str:
        """The sender of mails, each place's own: the same mails of two places are then calls under different keys."""
        return f"keikakun <{self.database}@{DOMAIN}>"

    def configure(self, **tables: Mapping[str, object]) -> None:
        """Write ``config.toml``: what a run here needs, and *tables* over it."""
        base: dict[str, Mapping[str, object]] = {
            "database": {"dsn": self.dsn, "pooler": self.pooler is not None},
            "email": {"sender": self.sender},
            "email.resend": {"api_key": API_KEY, "base_url": self.servers.mail_url},
            "push": {"vapid_private_key": VAPID_KEY, "allowed_hosts": ["127.0.0.1"], "allow_private_addresses": True},
            "http": {"bind": "127.0.0.1:0"},
        }
        write_config(self.folder, {name: {**base.get(name, {}), **tables.get(name, {})} for name in {**base, **tables}})

    def load(self, rows: Rows) -> None:
        """Fill the application, and let the push service know its devices."""
        self.cluster.psql(rows_sql(rows), self.database)
        self.serve(rows)

    def serve(self, rows: Rows, mail: MailConfig | None = None, *, keep_eml: bool = False) -> None:
        """Have the servers do what *mail* says, or no trouble at all."""
        devices = tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in rows.devices)
        config = mail or MailConfig(api_key=API_KEY, keep_eml=keep_eml)
        self.servers.configure(ServersConfig(config, PushConfig(devices=devices)))

    def once(self, *args: str, code: int | None = 0) -> Done:
        """Run ``once`` for DAY."""
        return run("once", "--force", "--day", str(DAY), "--json", *args, cwd=self.folder, code=code)

    @contextmanager
    def running_once(self, *args: str, keyless: bool = False) -> "Iterator[subprocess.Popen[str]]":
        """Start ``once`` for DAY; *keyless*, for a mail API that takes no notice of idempotency keys."""
        program = ("-P", KEYLESS) if keyless else ("-m", "notifierd")
        command = ("once", "--force", "--day", str(DAY), "--json", *args)
        with running(*command, cwd=self.folder, program=program) as process:
            yield process

    def mails(self) -> list[AcceptedMail]:
        """The mails that were accepted in this place."""
        return self.servers.mails()[self.seen[0] :]

    def pushes(self) -> list[AcceptedPush]:
        """The pushes that were accepted in this place."""
        return self.servers.pushes()[self.seen[1] :]

    def calls(self) -> int:
        """How many calls the servers have had ever, whatever became of them."""
        urls = (self.servers.mail_url, self.servers.push_url)
        return sum(len(httpx.get(f"{url}/_received", timeout=PATIENCE).json()["calls"]) for url in urls)

    def sql(self, script: str) -> str:
        """Run *script* as the superuser; what it printed."""
        return self.cluster.psql(script, self.database).strip()

    def hold(self, staff: UUID, day: date = DAY) -> None:
        """Hold back the mails of a staff member on *day*, as after a complaint of the day before."""
        self.sql(
            "insert into notifierd.holds (staff_id, address_key, reason, since, until, seen_at)"
            f" select s.id, {ADDRESS_KEY.format('s.email')}, 'complained', date '{day}', date '{day}', now()"
            f" from notifierd.staff s where s.id = '{staff}'"
        )

    def states(self) -> Counter[str]:
        """How many deliveries are in which state."""
        lines = self.sql("select state, count(*) from notifierd.deliveries group by 1").splitlines()
        return Counter({state: int(number) for state, number in (line.split("|") for line in lines)})

    def content(self) -> dict[str, str]:
        """Every row of the ledger, and of the tables that a run may touch."""
        tables = [f"notifierd.{name}" for name in LEDGER] + [f"public.{name}" for name in APPLICATION]
        return {name: self.sql(f"select t::text from {name} t order by 1") for name in tables}

    def calls_in_flight(self) -> int:
        """How many calls lie in the frozen mail API's sockets, by the kernel's table (proc(5), net/tcp)."""
        port = f":{int(self.servers.mail_url.rpartition(':')[2]):04X}"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        established = [queues for _, local, _, state, queues, *_ in sockets if local.endswith(port) and state == "01"]
        return sum(int(queues.partition(":")[2], 16) > 0 for queues in established)

    @contextmanager
    def frozen_servers(self) -> Iterator[None]:
        """Let no provider answer for the length of the block: what is sent to them waits, and they read it after."""
        os.kill(self.servers.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.servers.pid, signal.SIGCONT)


@frozen
class Template:
    """A database to copy, made by ``notifierd db init``: the application's empty tables, the ledger, the views."""

    cluster: Cluster
    database: str
    role: str

    @contextmanager
    def place(self, folder: Path, servers: Servers) -> Iterator[Place]:
        """A fresh copy, with a configuration in *folder* that works."""
        name = f"{self.database}_{next(_numbers)}"
        self.cluster.create_database(name, template=self.database)
        servers.configure(ServersConfig(MailConfig(api_key=API_KEY, keep_eml=False)))
        seen = len(servers.mails()), len(servers.pushes())
        place = Place(folder, self.cluster, name, self.role, servers, seen)
        place.configure()
        try:
            yield place
        finally:
            self.cluster.drop_database(name)


@contextmanager
def running_template(cluster: Cluster, folder: Path) -> Iterator[Template]:
    """Make a Template in *cluster*, and the daemon's role."""
    number = next(_numbers)
    database, role = f"processes_{number}", f"daemon_{number}"
    dsn = cluster.create_database(database)
    cluster.psql(f"create role {role} login")
    cluster.psql(tables_sql(), database)
    run("db", "init", "--preset", "keikakun", "--role", role, "--dsn", dsn, cwd=folder, code=0)
    yield Template(cluster, database, role)
    cluster.drop_database(database)
    cluster.psql(f"drop role {role}")


@contextmanager
def running_place() -> Iterator[Place]:
    """A Place with a PostgreSQL and servers of its own, which go with the block: for whoever is no test."""
    with (
        TemporaryDirectory(prefix="notifierd-place-") as directory,
        running_postgres(Path(directory) / "postgres") as cluster,
        running_servers(Path(directory) / "servers") as servers,
        running_template(cluster, Path(directory)) as template,
        template.place(Path(directory), servers) as place,
    ):
        yield place


def write_config(folder: Path, tables: Tables) -> None:
    """Write ``config.toml``; JSON's words for strings, numbers, lists and truth are TOML's too."""
    lines = []
    for name, keys in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items())]
    new = folder / "config.toml.new"
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(folder / "config.toml")  # whoever reads it meanwhile reads the old one or the new one


# ---------------------------------------------------------------------------------------------------- invented rows

_IDS = UUID("00000000-0000-4000-8000-00000000feed")

# Days from the day, of the recipients of each office in turn: the first is always overdue, so that every office is due.
_DEADLINES = (-9, 0, 2, 7, 14, 28, 30, 31, None, 90)
_PREFERENCES: Sequence[object] = (
    {},
    {"email_threshold_days": 30},
    {"email_threshold_days": 14},
    {"email_threshold_days": 7, "push_threshold_days": 30},
    {"email_threshold_days": 0},
    {"email_threshold_days": "7", "email_notification": None},
    None,
)


def an_id(name: str) -> UUID:
    """The same id for the same name."""
    return uuid5(_IDS, name)


def invent(offices: int, *, staff: int = 2, recipients: int = 1, push_url: str = "", day: date = DAY) -> Rows:
    """Invent an application in which every member of every office is due a mail on *day*.

    Names say where their owner belongs: ``o3r1`` is the second recipient of the fourth office, and no other one's name.

    Args:
        push_url: where everybody has a device; "" for no devices.
    """
    made: dict[str, list[Any]] = {
        "offices": [],
        "staff": [],
        "links": [],
        "recipients": [],
        "cycles": [],
        "devices": [],
    }
    for o in range(offices):
        office = Office(an_id(f"o{o}"), f"事業所 o{o}")
        made["offices"].append(office)
        for s in range(staff):
            chosen = {"system_notification": True} if push_url else _PREFERENCES[(o + s) % len(_PREFERENCES)]
            member = Staff(an_id(f"o{o}s{s}"), "職員", f"o{o}s{s}", f"o{o}s{s}@{DOMAIN}", chosen)
            made["staff"].append(member)
            made["links"].append(Link(office.id, member.id))
            if push_url:
                made["devices"].append(_phone(member, push_url))
        for r in range(recipients):
            person = Recipient(an_id(f"o{o}r{r}"), "利用者", f"o{o}r{r}", test_data=r > 0 and (3 * o + r) % 11 == 5)
            made["recipients"].append(person)
            days = _DEADLINES[r % len(_DEADLINES)]
            deadline = None if days is None else day + timedelta(days=days + o % 7)
            papers = () if (o + r) % 4 == 0 else ("assessment_sheet",)
            made["cycles"].append(Cycle(len(made["cycles"]) + 1, person.id, office.id, deadline, papers))
    return Rows(**{name: tuple(values) for name, values in made.items()})


def _phone(owner: Staff, push_url: str) -> Device:
    token = f"token-{owner.first_name}"
    endpoint, auth = f"{push_url}/push/{token}", "AAECAwQFBgcICQoLDA0ODw"
    return Device(an_id(token), owner.id, endpoint, PHONE_PUBLIC, auth, token, PHONE_PRIVATE)
