"""Faults from below, for real: a process of its own, PostgreSQL, HTTP; and what each fault comes to."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from attrs import evolve, field, frozen

from notifierd.demo.application import Rows
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, Rule, ServersConfig
from notifierd.rules.exits import EXIT_OUT_OF_REACH
from tests.support import faults
from tests.support.faults import PROVIDER_TEXT, Holding, Run, Seen, once, running_once, until
from tests.support.loopback import Handler, serving
from tests.support.processes import API_KEY, PASSWORD, Place, an_id, invent
from tests.support.proxy import Door, a_door

OFFICES = 4
STAFF = 2
MAILS = OFFICES * STAFF
IN_FLIGHT = 2
"""Calls to the mail provider at once, with an office's STAFF mails each."""

SHORT, LONG = 1.0, 10.0
"""Seconds for a call where it is to time out, and where it is not."""

ALL_SENT = {"sent": MAILS}
EACH_ONCE = {"sent, 1": MAILS}


@frozen
class Scene:
    """Where one row is played."""

    place: Place
    rows: Rows

    @property
    def cluster(self) -> Cluster:
        return self.place.cluster

    def configure(
        self, *, mail_url: str | None = None, dsn: str | None = None, statement_timeout: float = 30.0, **limits: object
    ) -> None:
        """Write the configuration: short times, and what the row needs otherwise."""
        self.place.configure(
            database={"dsn": dsn or self.place.dsn, "statement_timeout": statement_timeout},
            limits={"email": IN_FLIGHT, "send_timeout": LONG, **limits},
            **{"email.resend": {"base_url": mail_url or self.place.servers.mail_url}},
        )

    def serve(self, *rules: Rule) -> None:
        """Have the mail API make trouble, or no more."""
        self.place.serve(self.rows, MailConfig(api_key=API_KEY, keep_eml=False, rules=rules))

    @asynccontextmanager
    async def held_up(
        self, *args: str, door: bool = False, **settings: float
    ) -> AsyncIterator[tuple[Run, Holding, Door]]:
        """Start a run with *args*, through a door to the database if asked for; wait until it has calls in flight.

        The provider holds them up, for as long as they are given.
        """
        socket = self.cluster.socket_dir / ".s.PGSQL.5432"
        async with faults.holding(self.place.servers.mail_url) as (provider, url), a_door(socket) as way:
            through = f"postgresql://{self.place.role}:{PASSWORD}@127.0.0.1:{way.port}/{self.place.database}"
            self.configure(mail_url=url, dsn=through if door else None, **settings)
            async with running_once(self.place, *args) as run:
                await until(lambda: provider.waiting == IN_FLIGHT, "calls in flight")
                yield run, provider, way


Act = Callable[[Scene], Awaitable[Seen]]


@frozen
class Row:
    """A fault, and what it comes to.

    Attributes:
        act: makes the fault, and runs ``notifierd once`` meanwhile.
        line: the event of the line that names the fault, and what of it does (a regular expression).
        code: the exit code.
        status: the report's.
        ledger: see ``Seen.ledger``.
        accepted: see ``Seen.accepted``: of each mail the provider accepted so many messages.
    """

    act: Act
    line: tuple[str, str]
    code: int = 0
    status: str = "completed"
    ledger: Mapping[str, int] = field(factory=lambda: ALL_SENT)
    accepted: Mapping[str, int] = field(factory=lambda: EACH_ONCE)


# ------------------------------------------------------------------------------------ the database


async def restarted(scene: Scene) -> Seen:
    async with scene.held_up() as (run, provider, _):
        with faults.down(scene.cluster, Cluster.stop):
            provider.released.set()
            await until(lambda: run.said("waiting_for_database"), "a settlement in vain")
        return await run.ended()


async def killed(scene: Scene) -> Seen:
    async with scene.held_up() as (run, provider, _):
        with faults.down(scene.cluster, Cluster.kill):
            provider.released.set()
            await until(lambda: run.said("waiting_for_database"), "a settlement in vain")
        return await run.ended()


async def cut_again_and_again(scene: Scene) -> Seen:
    async with scene.held_up() as (run, provider, _):
        with faults.locking(scene.place, "lock table notifierd.deliveries in exclusive mode"):
            provider.released.set()
            for _cut in range(3):
                await until(lambda: faults.waiting_for_a_lock(scene.place), "a statement to cut")
                faults.cut_connections(scene.place)
        return await run.ended()


async def slow(scene: Scene) -> Seen:
    async with scene.held_up(door=True) as (run, provider, door):
        door.delay = 0.1
        provider.released.set()
        seen = await run.ended()
    assert seen.seconds > 2.0  # not so slow for nothing
    return seen


async def silent(scene: Scene) -> Seen:
    async with scene.held_up("--for", "20", door=True, statement_timeout=600.0) as (run, provider, door):
        door.hush()
        provider.released.set()
        return await run.ended()


async def forgotten(scene: Scene) -> Seen:
    async with scene.held_up(door=True, statement_timeout=0.5) as (run, provider, door):
        door.forget()
        provider.released.set()
        return await run.ended()


async def away_for_longer_than_the_lease(scene: Scene) -> Seen:
    async with scene.held_up(door=True, send_timeout=30.0) as (run, provider, door):
        door.shut()
        await until(lambda: provider.waiting == 0, "the calls to be cancelled")
        assert scene.place.sql("select lease_until > clock_timestamp() from notifierd.runs") == "t"
        door.open()
        provider.released.set()
        return await run.ended()


async def gone_for_good(scene: Scene) -> Seen:
    async with scene.held_up("--for", "20", door=True) as (run, provider, door):
        door.shut()
        provider.released.set()
        return await run.ended()


async def full_at_the_start(scene: Scene) -> Seen:
    with faults.no_connection_left(scene.place):
        return await once(scene.place)


async def full_in_mid_run(scene: Scene) -> Seen:
    async with scene.held_up() as (run, provider, _):
        with faults.no_connection_left(scene.place):
            faults.cut_connections(scene.place)
            provider.released.set()
            await until(lambda: run.said("waiting_for_database"), "a settlement in vain")
        return await run.ended()


async def disk_full_for_the_plan(scene: Scene) -> Seen:
    with faults.full_disk(scene.place, "notifierd.deliveries"):
        return await once(scene.place)


async def disk_full_in_mid_run(scene: Scene) -> Seen:
    async with scene.held_up() as (run, provider, _):
        with faults.full_disk(scene.place, "audit_logs"):
            provider.released.set()
            await until(lambda: run.said("waiting_for_database"), "a settlement in vain")
            scene.place.sql("vacuum full audit_logs")  # gives it another file: there is room now
            return await run.ended()


# ------------------------------------------------------------------------------------ locks


async def a_planned_delivery_locked(scene: Scene) -> Seen:
    async with scene.held_up() as (run, provider, _):
        planned = "select from notifierd.deliveries where state = 'planned' order by id limit 1 for update"
        with faults.locking(scene.place, planned):
            provider.released.set()
            await until(lambda: scene.place.states() == {"sent": MAILS - STAFF, "planned": STAFF}, "all others")
            await until(lambda: run.said("waiting_for_database"), "the lock to be noticed")
        return await run.ended()


async def a_delivery_in_flight_locked(scene: Scene) -> Seen:
    async with scene.held_up(send_timeout=3.0) as (run, provider, _):
        in_flight = "select from notifierd.deliveries where state = 'sending' order by id limit 1 for update"
        with faults.locking(scene.place, in_flight):
            provider.released.set()
            await until(lambda: scene.place.states() == {"sent": MAILS - 1, "sending": 1}, "all others")
            await until(lambda: run.said("waiting_for_database"), "the lock to be noticed")
        return await run.ended()


async def an_office_locked_for_a_while(scene: Scene) -> Seen:
    async with running_once(scene.place) as run:
        with faults.locking(scene.place, f"select from offices where id = '{an_id('o1')}' for update"):
            await until(lambda: run.said("waiting_for_database"), "the lock to be noticed")
            others = f"select count(*) from audit_logs where office_id <> '{an_id('o1')}'"
            await until(lambda: scene.place.sql(others) == str(MAILS - STAFF), "all other audit rows")
            assert scene.place.states() == {"sent": MAILS}
        seen = await run.ended()
    assert scene.place.sql("select count(*) from audit_logs") == str(MAILS)
    assert scene.place.sql("select count(*) from notifierd.deliveries where audit_missing") == "0"
    return seen


async def an_office_locked_to_the_end(scene: Scene) -> Seen:
    with faults.locking(scene.place, f"select from offices where id = '{an_id('o1')}' for update"):
        seen = await once(scene.place, "--for", "3")
    marked = scene.place.sql("select state, office_id from notifierd.deliveries where audit_missing").splitlines()
    assert marked == [f"sent|{an_id('o1')}"] * STAFF
    assert scene.place.sql("select count(*) from audit_logs") == str(MAILS - STAFF)
    return seen


async def a_device_locked(scene: Scene) -> Seen:
    scene = with_devices(scene, offices=1)
    gone = scene.rows.devices[0]
    known = tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in scene.rows.devices)
    config = MailConfig(api_key=API_KEY, keep_eml=False)
    scene.place.servers.configure(ServersConfig(config, PushConfig(devices=known, gone=(gone.token,))))
    async with running_once(scene.place) as run:
        with faults.locking(scene.place, f"select from push_subscriptions where id = '{gone.id}' for update"):
            await until(lambda: run.said("waiting_for_database"), "the lock to be noticed")
            await until(lambda: scene.place.states() == {"sent": 2 * STAFF - 1, "gone": 1}, "all to be settled")
        seen = await run.ended()
    assert scene.place.sql(f"select count(*) from push_subscriptions where id = '{gone.id}'") == "0"
    return seen


# ------------------------------------------------------------------------------------ the providers


def for_a_while(trouble: Handler, *, accepts: bool = False, timeout: float = LONG) -> Act:
    """The calls in flight meet *trouble*, with *accepts* after the API carried them out; then all is well."""

    async def act(scene: Scene) -> Seen:
        url = scene.place.servers.mail_url
        first = faults.accepting_first(url, trouble) if accepts else faults.reading_first(trouble)
        async with serving(faults.for_a_while(IN_FLIGHT, first, faults.leading_to(url))) as port:
            scene.configure(mail_url=f"http://127.0.0.1:{port}", send_timeout=timeout)
            return await once(scene.place)

    return act


def for_ever(trouble: Handler) -> Act:
    """Every call meets *trouble*, for as long as the run may take."""

    async def act(scene: Scene) -> Seen:
        async with serving(faults.reading_first(trouble)) as port:
            scene.configure(mail_url=f"http://127.0.0.1:{port}", email=OFFICES, send_timeout=SHORT)
            return await once(scene.place, "--for", "6")

    return act


async def refusing_connections(scene: Scene) -> Seen:
    with faults.deaf_port() as url:
        scene.configure(mail_url=url, email=OFFICES)
        return await once(scene.place, "--for", "6")


async def without_a_name(scene: Scene) -> Seen:
    scene.configure(mail_url="http://mail.notifierd.invalid", email=OFFICES)
    return await once(scene.place, "--for", "6")


async def a_push_service_without_a_name(scene: Scene) -> Seen:
    scene = with_devices(scene, offices=1, elsewhere="http://push.notifierd.invalid", first=STAFF)
    hosts = ["127.0.0.1", "push.notifierd.invalid"]
    scene.place.configure(push={"allowed_hosts": hosts, "allow_private_addresses": True})
    return await once(scene.place, "--for", "6")


async def limiting_the_rate(scene: Scene) -> Seen:
    scene.serve(Rule(status=429, retry_after=3, after=1, seconds=4.0))
    seen = await once(scene.place)
    assert len([status for _, status in seen.calls if status == 429]) >= 2
    for when, status in seen.calls:
        if status == 429:  # what was in flight then may still come; nothing else for three seconds
            early = [later - when for later, _ in seen.calls if 0 < later - when < 3.0]
            assert len(early) < IN_FLIGHT, early
            assert max(early, default=0.0) < 2.0, early
    return seen


async def down_for_the_whole_window(scene: Scene) -> Seen:
    scene.serve(Rule(status=503))
    scene.configure(email=OFFICES)
    seen = await once(scene.place, "--for", "8")
    assert len(seen.calls) <= 4 * OFFICES  # at 0, 1, 3 and 7 seconds: it is left alone for growing pauses
    return seen


async def refusing_us(scene: Scene) -> Seen:
    scene.serve(Rule(status=401, after=1))
    async with running_once(scene.place) as run:
        await until(lambda: run.said("sender_blocked"), "the alarm")
        await until(lambda: scene.place.states() == {"sent": STAFF, "planned": MAILS - STAFF}, "all to be put back")
        scene.serve()
        seen = await run.ended()
    assert len(seen.saying("sender_blocked", "")) == 1
    return seen


async def one_push_service_hanging(scene: Scene) -> Seen:
    created = faults.saying(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    hanging = Holding(lambda _: created)
    async with serving(hanging.handle) as port:
        there = 2 * STAFF
        scene = with_devices(scene, offices=OFFICES, elsewhere=f"http://127.0.0.1:{port}", first=there)
        scene.configure(push=8, send_timeout=8.0)
        async with running_once(scene.place) as run:
            await until(lambda: hanging.waiting == 2, "the hanging service's share of the slots")
            others = "select count(*) from notifierd.deliveries where state = 'sent'"
            await until(lambda: scene.place.sql(others) == str(MAILS + MAILS - there), "everything else")
            assert hanging.waiting == hanging.most == 8 // 4
            await until(lambda: run.said("call_in_trouble"), "the first timeout")
            hanging.released.set()
            return await run.ended()


def with_devices(scene: Scene, *, offices: int, elsewhere: str = "", first: int = 0) -> Scene:
    """The scene with a device for everybody; those of the *first* so many are *elsewhere*."""
    known = invent(offices, staff=STAFF, push_url=scene.place.servers.push_url)
    away = invent(offices, staff=STAFF, push_url=elsewhere or "-").devices
    rows = evolve(known, devices=(*away[:first], *known.devices[first:]))
    scene.place.sql("truncate offices, staffs, welfare_recipients cascade")
    scene.place.load(rows)
    return evolve(scene, rows=rows)


HTML = faults.response("200 OK", f"<html><body>{PROVIDER_TEXT}</body></html>", "text/html")
BAD_GATEWAY = faults.response("502 Bad Gateway", f"<html><body>{PROVIDER_TEXT}</body></html>", "text/html")
NONSENSE = faults.response("200 OK", f'{{"data": "{PROVIDER_TEXT}", "errors": 7}}', "application/json")
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"[" * 65536 + b"\r\n"

FAULTS: dict[str, Row] = {
    # The database ------------------------------------------------------------------------------------------------
    "the database is restarted": Row(restarted, ("waiting_for_database", "database_unavailable")),
    "the database is killed": Row(killed, ("waiting_for_database", "database_unavailable")),
    "its connections are cut again and again": Row(cut_again_and_again, ("waiting_for_database", "57P01|08")),
    "it is slow": Row(slow, ("ended", "completed")),  # and all is well: there is nothing to name
    "it falls silent": Row(
        silent,
        ("lease_lost", "database_unavailable:(timeout|TimeoutError)"),
        code=3,
        status="failed",
        ledger={"planned": MAILS - IN_FLIGHT * STAFF, "sending": IN_FLIGHT * STAFF},
        accepted={"planned, 0": MAILS - IN_FLIGHT * STAFF, "sending, 1": IN_FLIGHT * STAFF},
    ),
    "the connections to it fall silent, new ones are good": Row(forgotten, ("waiting_for_database", "TimeoutError")),
    "it is away for longer than the lease": Row(away_for_longer_than_the_lease, ("lease_lost", "database_unavailable")),
    "it is gone for good": Row(
        gone_for_good,
        ("outcomes_not_written", f'"deliveries": {IN_FLIGHT * STAFF}'),
        code=3,
        status="failed",
        ledger={"planned": MAILS - IN_FLIGHT * STAFF, "sending": IN_FLIGHT * STAFF},
        accepted={"planned, 0": MAILS - IN_FLIGHT * STAFF, "sending, 1": IN_FLIGHT * STAFF},
    ),
    "it has no connection left at the start": Row(
        full_at_the_start, ("for people", "database_unavailable:53300"), 3, "failed", {}, {}
    ),
    "it has no connection left in mid-run": Row(
        full_in_mid_run, ("waiting_for_database", "database_unavailable:53300")
    ),
    "its disk is full for the plan": Row(
        disk_full_for_the_plan, ("for people", "database_unavailable:53100"), 3, "failed", {}, {}
    ),
    "its disk is full in mid-run": Row(disk_full_in_mid_run, ("waiting_for_database", "database_unavailable:53100")),
    # Locks of other programs -------------------------------------------------------------------------------------
    "a planned delivery is locked": Row(a_planned_delivery_locked, ("waiting_for_database", "database_refused:55P03")),
    "a delivery in flight is locked": Row(
        a_delivery_in_flight_locked, ("waiting_for_database", "database_refused:55P03")
    ),
    "an office that the audit needs is locked for a while": Row(
        an_office_locked_for_a_while, ("waiting_for_database", "database_refused:55P03")
    ),
    "it is locked to the end": Row(an_office_locked_to_the_end, ("audit_rows_not_written", f'"deliveries": {STAFF}')),
    "a device that is gone is locked": Row(
        a_device_locked,
        ("waiting_for_database", "database_refused:55P03"),
        ledger={"sent": STAFF, "push sent": STAFF - 1, "push gone because of gone:410": 1},
        accepted={"sent, 1": STAFF},
    ),
    # Providers ---------------------------------------------------------------------------------------------------
    "the provider refuses connections": Row(
        refusing_connections,
        ("call_in_trouble", "connection_failed"),
        code=1,
        ledger={"expired because of window_ended (connection_failed)": MAILS},
        accepted={"expired, 0": MAILS},
    ),
    "its name is not resolved": Row(
        without_a_name,
        ("call_in_trouble", "connection_failed"),
        code=1,
        ledger={"expired because of window_ended (connection_failed)": MAILS},
        accepted={"expired, 0": MAILS},
    ),
    "it hangs": Row(for_a_while(faults.hanging, timeout=SHORT), ("call_in_trouble", "timeout")),
    "it accepts, and hangs": Row(
        for_a_while(faults.hanging, accepts=True, timeout=SHORT), ("call_in_trouble", "timeout")
    ),
    "it hangs for ever": Row(
        for_ever(faults.hanging),
        ("call_in_trouble", "timeout"),
        code=1,
        ledger={"unknown because of window_ended (timeout)": MAILS},
        accepted={"unknown, 0": MAILS},
    ),
    "it cuts the connection": Row(for_a_while(faults.cutting), ("call_in_trouble", "connection_lost")),
    "it accepts, and cuts the connection": Row(
        for_a_while(faults.cutting, accepts=True), ("call_in_trouble", "connection_lost")
    ),
    "it answers HTML": Row(for_a_while(faults.saying(HTML)), ("call_in_trouble", "answer_unclear")),
    "it accepts, and a gateway answers HTML": Row(
        for_a_while(faults.saying(BAD_GATEWAY), accepts=True), ("call_in_trouble", "server_error:502")
    ),
    "it accepts, and answers nonsense": Row(
        for_a_while(faults.saying(NONSENSE), accepts=True), ("call_in_trouble", "answer_unclear")
    ),
    "its answer's body never ends": Row(
        for_a_while(faults.dripping(ENDLESS, CHUNK, 0.0)), ("call_in_trouble", "answer_unclear")
    ),
    "it drips its answer's body": Row(
        for_a_while(faults.dripping(ENDLESS, b"1\r\n[\r\n", 0.02), accepts=True, timeout=SHORT),
        ("call_in_trouble", "timeout"),
    ),
    "its answer's header never ends": Row(
        for_a_while(faults.dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536, 0.0)),
        ("call_in_trouble", "connection_lost"),
    ),
    "it drips its answer's header": Row(
        for_a_while(faults.dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02), timeout=SHORT),
        ("call_in_trouble", "timeout"),
    ),
    "it limits the rate for a while": Row(limiting_the_rate, ("call_in_trouble", "rate_limited:429")),
    "it is down for the whole window": Row(
        down_for_the_whole_window,
        ("call_in_trouble", "server_error:503"),
        code=1,
        ledger={"expired because of window_ended (server_error:503)": MAILS},
        accepted={"expired, 0": MAILS},
    ),
    "it refuses us until the key is mended": Row(refusing_us, ("sender_blocked", "blocked:401")),
    "a push service hangs": Row(
        one_push_service_hanging, ("call_in_trouble", "timeout"), ledger={"sent": MAILS, "push sent": MAILS}
    ),
    "a push service's name is not resolved": Row(
        a_push_service_without_a_name,
        ("call_in_trouble", "connection_failed"),
        code=1,
        ledger={"sent": STAFF, "push expired because of window_ended (connection_failed)": STAFF},
        accepted={"sent, 1": STAFF},
    ),
}


# ------------------------------------------------------------------------------------ playing them


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_ends_as_promised(fault: str, place: Place):
    row, scene = FAULTS[fault], Scene(place, invent(OFFICES, staff=STAFF))
    place.load(scene.rows)
    scene.configure()
    seen = await row.act(scene)
    assert seen.saying(*row.line), seen.lines
    assert (seen.code, seen.report["status"]) == (row.code, row.status), seen.lines
    assert seen.ledger == row.ledger, seen.lines
    assert seen.accepted == row.accepted, seen.lines
    assert seen.spent == 0, "the trouble was the provider's, or the database's"
    if seen.code != EXIT_OUT_OF_REACH:
        assert reported(seen) == states(seen)
    else:  # nobody is lost, and nobody is told twice
        scene.configure()
        again = await once(place)
        assert (again.code, again.report["status"]) == (0, "completed"), again.lines
        assert (again.ledger, again.accepted) == (ALL_SENT, EACH_ONCE)


def reported(seen: Seen) -> Counter[str]:
    """Return the deliveries of each state by the report."""
    channels = (seen.report["email"], seen.report["push"])
    return +sum((Counter({key: n for key, n in one.items() if key != "planned"}) for one in channels), Counter())


def states(seen: Seen) -> Counter[str]:
    """Return the deliveries of each state by the ledger."""
    counted: Counter[str] = Counter()
    for described, number in seen.ledger.items():
        counted[described.removeprefix("push ").partition(" ")[0]] += number
    return counted
