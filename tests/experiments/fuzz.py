"""Rounds of the crash fuzz: ``once`` killed at random moments and started again. ``crash`` plays them.

Each round is a day of its own over the same 40 offices, against a PostgreSQL, a mail API and a push service, all real.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen

from notifierd.demo.application import Rows
from notifierd.demo.expected import expected
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.journal import FILE_NAME
from notifierd.demo.servers.process import Servers, running_servers
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, ServersConfig
from tests.experiments.verdict import Row, Story, broken
from tests.support.pooler import running_pooler
from tests.support.processes import API_KEY, DAY, DOMAIN, PATIENCE, SECRETS, Place, an_id, invent, running_template

OFFICES = 40
MOST_KILLS = 3
REAL_WAIT_EVERY = 20
SEND_TIMEOUT = 5.0
BEFORE_PLAN = 0.2
"""The share of kills that come before the plan; what they hit mostly is a process that is still starting."""

SLOWEST_START = 5.0
JITTER = 0.1
LATENCY_MS = (30.0, 60.0)
TROUBLE = 0.3
KEYLESS = str(Path(__file__).parents[1] / "support/keyless.py")

# What the servers say no to, in some of the rounds: one mail in a batch and one alone, and a device that is gone.
REJECTED = (f"o1s1@{DOMAIN}", f"o2s0@{DOMAIN}")
GONE = "token-o3s2"

LEDGER = """
select coalesce(json_agg(json_build_object(
    'id', id, 'channel', channel, 'office', office_id, 'staff', staff_id, 'device', device_id, 'state', state,
    'try_no', try, 'doubts', doubts, 'message_id', provider_message_id, 'reason', reason, 'bare', audit_missing
)), '[]') from notifierd.deliveries where day = '{day}';
"""

AUDIT = """
select coalesce(json_agg(json_build_array(target_type, office_id, target_id)), '[]') from notifierd.audit_log;
select json_build_array(state, holder, (
    select count(*) from notifierd.late_outcomes l join notifierd.deliveries d on d.id = l.delivery_id
    where d.day = r.day
)) from notifierd.runs r where day = '{day}';
"""

RESTORE = """
truncate audit_logs;
insert into push_subscriptions select * from all_devices on conflict do nothing;
"""

# A dead process' last statement may still be at work: what it left is certain when its sessions are gone.
SESSIONS_GONE = """
do $$ begin
    while exists (
        select from pg_stat_activity
        where usename = '{role}' and datname = current_database() and (not {pooled}
            or state <> 'idle' or state_change > clock_timestamp() - interval '200 ms')
    ) loop
        perform pg_sleep(0.002), pg_stat_clear_snapshot();
    end loop;
end $$;
"""
"""A pooler keeps its sessions open: wait until they have been idle for 200 ms."""


def sessions_gone(place: Place) -> str:
    """Return the script that waits until no statement of a dead process is running."""
    return SESSIONS_GONE.format(role=place.role, pooled=place.pooler is not None)


AGE = """
update notifierd.runs set lease_until = clock_timestamp() where day = '{day}' and holder is not null;
update notifierd.deliveries set try_until = clock_timestamp() where day = '{day}' and state = 'sending';
"""


def age(place: Place, day: date = DAY) -> None:
    """Let the time pass, as far as the ledger knows, for which a dead process' lease and tries last."""
    place.sql(sessions_gone(place) + AGE.format(day=day))


# ---------------------------------------------------------------------------------------------------------- the rounds


@frozen
class Round:
    """What a round came to: figures for the table, and what was broken."""

    figures: Counter[str]
    broken: list[str]


@frozen
class Ended:
    """How a process ended, which may have been killed."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def report(self) -> dict[str, Any]:
        """The report on stdout; an empty one if there is none."""
        return dict(json.loads(self.out)) if self.out.startswith("{") else {}

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        return log_of(self.err)

    def leaks(self) -> list[str]:
        """What should never be seen in what a process writes, be it killed or not."""
        found = [word for word in ("Traceback", f"@{DOMAIN}", *SECRETS) if word in self.out + self.err]
        return [f"{found} in what a process wrote"] if found else []


@frozen
class Journals:
    """What the servers accept from a moment on."""

    mails: tuple[Path, int]
    pushes: tuple[Path, int]

    @classmethod
    def from_now_on(cls, servers: Servers) -> "Journals":
        mails, pushes = (servers.out / name / FILE_NAME for name in ("mails", "pushes"))
        return cls((mails, mails.stat().st_size), (pushes, pushes.stat().st_size))

    def count(self) -> int:
        """How many messages were accepted."""
        return sum(len(_lines(*journal)) for journal in (self.mails, self.pushes))

    def by_target(self) -> dict[str, list[str]]:
        """The provider's ids of the messages accepted for each target."""
        found: dict[str, list[str]] = defaultdict(list)
        for mail in map(json.loads, _lines(*self.mails)):
            found[mail["to"][0]].append(mail["id"])
        for push in map(json.loads, _lines(*self.pushes)):
            found[push["device_id"]].append(push["id"])
        return dict(found)


def _lines(path: Path, start: int) -> list[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        return [line for line in file if line.endswith(b"\n")]


@define
class Fuzz:
    """Rounds of kills in one place.

    Attributes:
        keys: the mail API honours idempotency keys, and the sender knows it.
        smtp: mails go by SMTP, which has no keys.
        latency_ms: between which bounds each round chooses how long the servers take to answer.
    """

    place: Place
    rows: Rows
    keys: bool
    random: Random
    smtp: bool = False
    latency_ms: tuple[float, float] = LATENCY_MS
    _number: int = field(default=0, init=False)
    _startup: float = field(default=2.0, init=False)

    def round(self) -> Round:
        """Kill until this round's kills are used up or a process ends before its own; then judge."""
        began, self._number = time.monotonic(), self._number + 1
        day, patient = DAY + timedelta(days=self._number), self._number % REAL_WAIT_EVERY == 0
        kills = 1 if patient else self.random.randint(1, MOST_KILLS)
        trouble = self.random.random() < TROUBLE
        wanted = self.prepare(day, trouble=trouble)
        journals = Journals.from_now_on(self.place.servers)
        figures, wrong = Counter({"rounds": 1, REAL: int(patient), TROUBLED: int(trouble)}), list[str]()
        lost_tries: dict[str, set[int]] = defaultdict(set)

        kill = partial(self.kill_at_a_moment, journals)
        process = self.process(day, kill)
        while process.killed and kills:
            accepted, kills = journals.by_target(), kills - 1
            self.place.sql(sessions_gone(self.place))
            ledger = self.ledger(day)
            wrong += [*process.leaks(), *too_early(ledger, accepted, wanted)]
            begun = [t for t, row in ledger.items() if row.state == "sending" and row.try_no not in lost_tries[t]]
            figures += landed(process, ledger, begun, accepted)
            for target in begun:
                lost_tries[target].add(ledger[target].try_no)
            if not patient:
                age(self.place, day)
            process = self.process(day, kill if kills else None)

        story = self.story(day, wanted, journals, lost_tries, process)
        wrong += [*process.leaks(), *broken(story)]
        figures += figures_of(story)
        figures += Counter(
            {TOO_LATE: kills, BROKEN: len(wrong), "milliseconds": int(1000 * (time.monotonic() - began))}
        )
        return Round(figures, [f"round {self._number}: {line}" for line in wrong])

    def story(
        self,
        day: date,
        wanted: Mapping[str, str],
        journals: Journals,
        lost_tries: Mapping[str, set[int]],
        process: Ended,
    ) -> Story:
        """All that is known of *day* when its last *process* has ended."""
        audit, run = self.audit(day)
        keyed = frozenset({"email"} if self.keys else ())
        accepted = journals.by_target()
        return Story(wanted, self.ledger(day), accepted, keyed, lost_tries, audit, run, process.report, process.code)

    def prepare(self, day: date, *, trouble: bool) -> dict[str, str]:
        """Bring devices back, tell the servers what to do; return how the delivery to each target is to end."""
        self.place.sql(RESTORE)
        latency = self.random.uniform(*self.latency_ms)
        devices = tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in self.rows.devices)
        rejected, gone = (REJECTED, (GONE,)) if trouble else ((), ())
        mail = MailConfig(API_KEY, latency, rejected, keep_eml=False, honours_keys=self.keys)
        self.place.servers.configure(ServersConfig(mail, PushConfig(latency, devices, gone)))
        due = expected(self.rows, day)
        mails, pushes = [mail.address for mail in due.mails], [str(push.device_id) for push in due.pushes]
        unsubscribed = [device.id for device in devices if device.token in gone]
        sent = dict.fromkeys((*mails, *pushes), "sent")
        return sent | dict.fromkeys(rejected, "failed") | dict.fromkeys(unsubscribed, "gone")

    def process(self, day: date, strike: "Callable[[subprocess.Popen[bytes], Path], None] | None" = None) -> Ended:
        """Run ``once`` for *day*, to its end or until *strike* has killed it, which gets the process and its log."""
        command = ["-m", "notifierd"] if self.keys or self.smtp else ["-P", KEYLESS]
        out, err = self.place.folder / "stdout", self.place.folder / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *command, "once", "--force", "--day", str(day), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.place.folder,
            )
            try:
                if strike is not None:
                    strike(process, err)
                wait(process, lambda: False, PATIENCE)
            finally:
                process.kill()
                process.wait()
        return Ended(process.returncode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def kill_at_a_moment(self, journals: Journals, process: "subprocess.Popen[bytes]", err: Path) -> None:
        """Kill the process at a random moment, if it does not end before."""
        self.await_moment(process, err, journals)
        process.kill()

    def await_moment(self, process: "subprocess.Popen[bytes]", err: Path, journals: Journals) -> None:
        """Return at a random moment: before the plan, or when any part of what is open then has been told.

        By progress and not by time, so that kills spread over all of a run on a slow machine, too.
        """
        if self.random.random() < BEFORE_PLAN:
            wait(process, lambda: False, self._startup * self.random.uniform(0.5, 1.0))
            return
        self.await_share(process, err, journals, self.random.random())
        wait(process, lambda: False, self.random.uniform(0.0, JITTER))

    def await_share(self, process: "subprocess.Popen[bytes]", err: Path, journals: Journals, share: float) -> None:
        """Return when *share* of what is open in the process' plan has been told."""
        began, told = time.monotonic(), journals.count()
        wait(process, lambda: b'"planned"' in err.read_bytes(), PATIENCE)
        self._startup = min(time.monotonic() - began, SLOWEST_START)
        planned = next((line for line in log_of(err.read_text(encoding="utf-8")) if line["event"] == "planned"), None)
        if planned is not None:
            told += int(share * (planned["email"] + planned["push"]))
            wait(process, lambda: journals.count() >= told, PATIENCE)

    def ledger(self, day: date) -> dict[str, Row]:
        """The day's deliveries by target."""
        addresses = {str(member.id): member.email for member in self.rows.staff}
        rows = [Row(**row) for row in json.loads(self.place.sql(LEDGER.format(day=day)))]
        return {addresses[row.staff] if row.device is None else row.device: row for row in rows}

    def audit(self, day: date) -> tuple[Counter[tuple[str, str, str]], tuple[str, str | None, int]]:
        """The audit rows, and how the run stands."""
        audit, run = map(json.loads, self.place.sql(AUDIT.format(day=day)).splitlines())
        return Counter((kind, office, staff) for kind, office, staff in audit), (run[0], run[1], run[2])


def wait(process: "subprocess.Popen[bytes]", reached: Callable[[], bool], seconds: float) -> None:
    """Wait until *reached*, or the process has ended, or *seconds* are over."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not reached():
        time.sleep(0.002)


def log_of(text: str) -> list[dict[str, Any]]:
    """The whole lines of a log, which may still grow."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]


def too_early(ledger: Mapping[str, Row], accepted: Mapping[str, object], wanted: Mapping[str, str]) -> Iterator[str]:
    """Judge at a kill: every delivery stands in the ledger before the first message leaves."""
    missing = wanted.keys() - ledger.keys()
    if accepted and missing:
        yield f"{len(accepted)} told before {len(missing)} were planned"


# ----------------------------------------------------------------------------------------------------------- the table

REAL = "rounds whose lease was left to run out by itself"
TROUBLED = "rounds with two refused addresses and a gone device"
TOO_LATE = "kills not made: the process had ended before"
BROKEN = "promises broken"


def landed(
    process: Ended, ledger: Mapping[str, Row], begun: Sequence[str], accepted: Mapping[str, object]
) -> Counter[str]:
    """Where a kill landed, by what it left in the ledger; *begun* is what was in flight in that process' calls."""
    planned = any(line["event"] == "planned" for line in process.log)
    return found_at_kill(ledger, begun, accepted, planned=planned)


def found_at_kill(
    ledger: Mapping[str, Row], begun: Sequence[str], accepted: Mapping[str, object], *, planned: bool
) -> Counter[str]:
    """Where a kill landed; *planned*: whether the day was planned by then."""
    states = Counter(row.state for row in ledger.values())
    if not planned:
        where = "kills while starting or planning"
    elif begun:
        where = "kills with calls in flight"
    else:
        where = "kills between calls" if states["planned"] else "kills when all was settled"
    return Counter(
        {
            "kills": 1,
            where: 1,
            "messages in flight at kills, accepted by then": sum(target in accepted for target in begun),
            "messages in flight at kills, not accepted yet": sum(target not in accepted for target in begun),
            "rows planned at kills": states["planned"],
            "rows settled at kills": len(ledger) - states["planned"] - states["sending"],
        }
    )


def figures_of(story: Story) -> Counter[str]:
    """A round's figures."""
    figures: Counter[str] = Counter()
    for target, row in story.ledger.items():
        times = len(story.accepted.get(target, ()))
        kind = f"{row.channel}, keys" if row.channel in story.keyed else f"{row.channel}, no keys"
        figures += Counter(
            {
                f"deliveries ({kind})": 1,
                f"accepted messages ({kind})": times,
                f"accepted twice ({kind})": int(times == 2),
                f"accepted more often ({kind})": int(times > 2),
                f"doubts in the ledger ({kind})": row.doubts,
                f"ended {row.state}": 1,
            }
        )
    return figures


def table(total: Counter[str], *, keys: bool) -> str:
    """The figures, one a line."""
    channels = (f"email, {'keys' if keys else 'no keys'}", "push, no keys")
    lines = [
        *("rounds", REAL, TROUBLED, "kills", TOO_LATE, "kills while starting or planning", "kills between calls"),
        *("kills with calls in flight", "kills when all was settled", "rows planned at kills"),
        *("rows settled at kills", "messages in flight at kills, not accepted yet"),
        "messages in flight at kills, accepted by then",
        *(
            f"{what} ({channel})"
            for channel in channels
            for what in (
                "deliveries",
                "accepted messages",
                "accepted twice",
                "accepted more often",
                "doubts in the ledger",
            )
        ),
        *("ended sent", "ended failed", "ended gone", "ended unknown", "ended expired"),
        *("ended planned", "ended sending", BROKEN),
    ]
    lines += sorted(total.keys() - {*lines, "milliseconds"})
    width = max(map(len, lines))
    figures = [f"{line:<{width}} {total[line]:>8}" for line in lines]
    return "\n".join([*figures, f"{'seconds':<{width}} {total['milliseconds'] / 1000:>8.1f}"])


# ------------------------------------------------------------------------------------------------------------- to run


def forty_offices(push_url: str, day: date = DAY) -> Rows:
    """Offices whose mails go in one call of three, and as many with one mail; devices for all, two for some."""
    rows = invent(OFFICES, staff=3, push_url=push_url, day=day)
    alone = {an_id(f"o{o}s{s}") for o in range(0, OFFICES, 2) for s in (1, 2)}
    devices = [device for device in rows.devices if device.staff_id not in alone]
    tablets = [
        evolve(
            device, id=an_id(f"tablet of {device.token}"), token=f"{device.token}-2", endpoint=f"{device.endpoint}-2"
        )
        for device in devices[::5]
    ]
    return evolve(
        rows,
        staff=tuple(member for member in rows.staff if member.id not in alone),
        links=tuple(link for link in rows.links if link.staff_id not in alone),
        devices=(*devices, *tablets),
    )


@contextmanager
def open_fuzz(
    cluster: Cluster, folder: Path, *, keys: bool, seed: int, pool_mode: str = "", smtp: bool = False
) -> Iterator[Fuzz]:
    """Set everything up in *folder*, and in databases of *cluster*: behind a pooler if *pool_mode* names its mode."""
    with (
        running_servers(folder / "servers") as servers,
        running_template(cluster, folder) as template,
        template.place(folder, servers) as place,
    ):
        if not pool_mode:
            yield fuzz_in(place, keys=keys, random=Random(seed), smtp=smtp)
            return
        with running_pooler(cluster, pool_mode, [place.role]) as pooler:
            yield fuzz_in(evolve(place, pooler=pooler), keys=keys, random=Random(seed), smtp=smtp)


def fuzz_in(place: Place, *, keys: bool, random: Random, day: date = DAY, smtp: bool = False) -> Fuzz:
    """Fill *place* with forty offices that are due on *day*."""
    return Fuzz(place, filled(place, day, smtp=smtp), keys, random, smtp)


def filled(place: Place, day: date = DAY, limits: Mapping[str, object] | None = None, *, smtp: bool = False) -> Rows:
    """Fill *place* with forty offices that are due on *day*, and keep a copy of their devices there."""
    email: dict[str, Mapping[str, object]] = {
        "email": {"provider": "smtp"},
        "email.smtp": {"host": "127.0.0.1", "port": place.servers.smtp_port, "security": "none"},
    }
    place.configure(limits={"send_timeout": SEND_TIMEOUT, **(limits or {})}, **(email if smtp else {}))
    rows = forty_offices(place.servers.push_url, day)
    place.load(rows)
    place.sql("create table all_devices as table push_subscriptions")
    return rows
