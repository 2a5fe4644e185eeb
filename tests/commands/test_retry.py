"""``notifierd retry``: beside a run, a daemon and a window's end; real processes, and a real race in PostgreSQL."""

import signal
from collections import Counter
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
import trio
from attrs import evolve

from notifierd.commands.retry import Retried, retry
from notifierd.config.settings import DatabaseSettings, Settings, WindowSettings
from notifierd.demo.servers.trouble import MailConfig, Rule
from notifierd.model.delivery import State
from notifierd.rules.due import Rules
from notifierd.store.database import Connection, Database, open_database
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import START, Claim, PostgresSource
from notifierd.store.sql import deliveries
from tests.support import application
from tests.support.daemon_process import AHEAD, OPEN, PAST, TODAY, running_service
from tests.support.documented import differences, documented
from tests.support.faults import until
from tests.support.processes import API_KEY, DOMAIN, Done, Place, an_id, ended, invent, run, running
from tests.support.processes import until as until_now
from tests.support.samples import DAY, some_offices

pytestmark = pytest.mark.usefixtures("_forked_commands")

REFUSED = f"o1s0@{DOMAIN}"
ZONE = datetime.now(ZoneInfo(str(AHEAD["timezone"]))).tzname()
REFUSING = MailConfig(API_KEY, rejected=(REFUSED,), keep_eml=False)


def again(place: Place, *states: str, code: int = 0) -> Done:
    """Run ``retry`` for these states."""
    return run("retry", *(f"--{state}" for state in states), cwd=place.folder, code=code)


def once(place: Place, code: int) -> Done:
    """Run ``once`` for today."""
    return run("once", "--json", cwd=place.folder, code=code)


def mails(place: Place) -> Counter[str]:
    """To whom mails went, and how often."""
    return Counter(mail.to[0] for mail in place.mails())


def test_mails_that_are_held_back_are_not_retried(place: Place) -> None:
    place.load(rows := invent(1, day=TODAY))
    place.serve(rows)
    place.hold(an_id("o0s0"), TODAY)
    place.configure(window=PAST)
    assert once(place, 1).report["email"]["failed"] == 1
    done = run("retry", "--failed", "--json", cwd=place.folder, code=0).report
    assert done == {
        "day": str(TODAY),
        "offices": 0,
        "email": 0,
        "push": 0,
        "reason": f"1 mails of {TODAY} are held back",
        "advice": "`notifierd lift STAFF_ID` ends that",
    }
    assert place.states() == {"sent": 1, "failed": 1}
    place.sql(f"insert into notifierd.lifts values ('{an_id('o0s0')}', now())")
    assert "1 mail and 0 pushes of 1 office planned again" in again(place, "failed").out


# Processes -----------------------------------------------------------------------------------------------------------


async def test_a_daemon_that_sleeps_sends_what_is_planned_again_while_its_window_is_open(place: Place) -> None:
    place.load(rows := invent(2, day=TODAY))
    place.serve(rows, REFUSING)
    place.configure(window=OPEN)
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        assert place.states() == {"sent": 3, "failed": 1}
        place.serve(rows)
        done = await trio.to_thread.run_sync(again, place, "failed")
        assert done.out.splitlines() == [
            f"{TODAY}: 1 mail and 0 pushes of 1 office planned again",
            "the daemon sends them within a minute, if it runs; `notifierd once` sends them now",
        ]
        service.tell(signal.SIGHUP)  # whoever naps looks anew, and not only after 20 s
        await until(lambda: place.states() == {"sent": 4}, "the mail that was refused")
        await until(lambda: service.shows("sleeping until"), "the run's end")
        service.tell(signal.SIGTERM)
        await service.ended(0)
    assert set(mails(place).values()) == {1}
    assert place.sql("select state, reason from notifierd.runs") == "completed|"


async def test_what_is_planned_again_after_the_window_outlives_starts_of_the_daemon_and_once_sends_it(
    place: Place,
) -> None:
    place.load(rows := invent(2, day=TODAY))
    place.serve(rows, MailConfig("re_another_key", keep_eml=False))
    place.configure(window=PAST)
    run("once", "--json", "--for", "2", cwd=place.folder, code=1)
    assert place.states() == {"expired": 4}
    assert "so no daemon sends them; `notifierd once` does" in again(place, "expired").out
    place.serve(rows)
    for _ in range(2):
        async with running_service(place) as service:
            await until(lambda: service.shows("4 deliveries of"), "what the daemon sees")
            assert [line["deliveries"] for line in service.lines if line["event"] == "left_open"] == [4]
            service.tell(signal.SIGTERM)
            await service.ended(0)
    assert place.sql("select state, reason from notifierd.runs") == "interrupted|retried"
    assert place.states() == {"planned": 4}
    report = once(place, 0).report
    assert (report["status"], report["email"]["sent"]) == ("completed", 4)
    assert set(mails(place).values()) == {1}


async def test_an_unknown_mail_is_sent_once_by_a_provider_that_honours_keys(place: Place) -> None:
    """The answer to each call is lost, and the run is over before its turn comes again."""
    place.load(rows := invent(1, staff=1, day=TODAY))
    place.serve(rows, MailConfig(API_KEY, rules=(Rule(accept=True, then="hang"),), keep_eml=False))
    place.configure(window=PAST, limits={"send_timeout": 1.0})
    run("once", "--json", "--for", "1", cwd=place.folder, code=1)
    assert place.states() == {"unknown": 1}
    place.serve(rows)
    again(place, "unknown")
    assert once(place, 0).report["email"]["sent"] == 1
    assert set(mails(place).values()) == {1}
    assert place.sql("select call_tries, put_back from notifierd.deliveries") == "2|0"


def test_a_run_in_progress_passes_again_over_what_is_planned_again(place: Place) -> None:
    """One mail is refused once, the others are held up: planned again meanwhile, it is sent by the same run."""
    place.load(rows := invent(6, staff=1, day=TODAY))
    refusal = Rule(to=f"o0s0@{DOMAIN}", status=422, times=1)  # of the most urgent office
    place.serve(rows, MailConfig(API_KEY, latency_ms=300.0, rules=(refusal,), keep_eml=False))
    place.configure(window=OPEN, limits={"email": 1})
    with running("once", "--json", cwd=place.folder) as process:
        until_now(lambda: place.states()["failed"] == 1, "the refusal")
        with place.frozen_servers():
            assert again(place, "failed").out.endswith("the run in progress sends them\n")
        report = ended(process, 0).report
    assert (report["status"], report["email"]["sent"]) == ("completed", 6)
    assert mails(place) == Counter(f"o{n}s0@{DOMAIN}" for n in range(6))


def test_once_sends_what_is_planned_again_when_no_window_is_open(place: Place) -> None:
    place.load(rows := invent(2, day=TODAY))
    place.serve(rows, REFUSING)
    place.configure(window=AHEAD)
    assert once(place, 1).report["email"]["failed"] == 1
    place.serve(rows)
    words = f"the daemon sends them at 23:00 {ZONE}, if it runs; `notifierd once` sends them now"
    assert words in again(place, "failed").out
    report = once(place, 0).report
    assert (report["status"], report["email"]["sent"]) == ("completed", 4)
    assert set(mails(place).values()) == {1}


def test_a_retry_that_finds_nothing_says_so_and_what_there_is(place: Place) -> None:
    place.load(rows := invent(2, day=TODAY))
    place.serve(rows, REFUSING)
    place.configure(window=AHEAD)
    assert again(place, "failed").out == (
        f"nothing is planned again: no run of {TODAY} yet "
        f"(its window is from 23:00 {ZONE} to 23:59 {ZONE}; `notifierd once` runs it now)\n"
    )
    once(place, 1)
    before = place.content()
    words = f"nothing is planned again: no unknown or expired delivery of {TODAY} (others: 1 failed (--failed))\n"
    assert again(place, "unknown", "expired").out == words
    assert place.content() == before
    done = run("retry", "--unknown", "--json", cwd=place.folder, code=0).report
    assert differences(done, documented("retry --failed --json")) == []
    assert done == {
        "day": str(TODAY),
        "offices": 0,
        "email": 0,
        "push": 0,
        "reason": f"no unknown delivery of {TODAY}",
        "advice": "others: 1 failed (--failed)",
    }


def test_another_days_deliveries_are_never_planned_again(place: Place) -> None:
    yesterday = TODAY - timedelta(days=1)
    place.load(rows := invent(2, day=yesterday))
    place.serve(rows, REFUSING)
    place.configure(window=AHEAD)
    run("once", "--force", "--day", str(yesterday), cwd=place.folder, code=1)
    before = place.content()
    assert f"no run of {TODAY} yet" in again(place, "failed", "unknown", "expired").out
    assert place.content() == before


def test_a_retry_has_to_say_what(place: Place) -> None:
    assert "name at least one of --failed, --unknown and --expired" in run("retry", cwd=place.folder, code=2).err


def test_a_retry_without_a_database_is_exit_3(place: Place) -> None:
    place.configure(database={"dsn": f"postgresql://me@/nowhere?host={place.folder}"})
    assert again(place, "failed", code=3).err.startswith("notifierd: the database is unreachable")


# What is said --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "advice"),
    [
        ("08:59", "the daemon sends them at 09:00 UTC, if it runs; `notifierd once` sends them now"),
        ("09:00", "the daemon sends them within a minute, if it runs; `notifierd once` sends them now"),
        ("11:59", "the daemon sends them within a minute, if it runs; `notifierd once` sends them now"),
        ("12:00", "the window of 2026-11-24 ended at 12:00 UTC, so no daemon sends them; `notifierd once` does"),
    ],
)
async def test_who_sends_what_is_planned_again(database: str, now: str, advice: str) -> None:
    done = await retried_at(database, Settings(window=WindowSettings(timezone="UTC")), now)
    assert (done.again.email, done.reason, done.advice) == (1, None, advice)


@pytest.mark.parametrize("now", ["08:30", "09:30", "12:30"])
async def test_on_a_closed_day_that_was_forced_once_has_to_be_forced_again(database: str, now: str) -> None:
    settings = Settings(window=WindowSettings(timezone="UTC", closed_dates=(DAY,)))
    done = await retried_at(database, settings, now)
    assert done.advice == "2026-11-24 is closed (closed_dates), so no daemon sends them; `notifierd once --force` does"


async def test_a_closed_day_is_refused_with_its_reason(database: str) -> None:
    settings = Settings(window=WindowSettings(timezone="UTC", closed_dates=(DAY,)))
    done = await retried_at(database, settings, "09:30", ran=False)
    assert (done.again.email, done.reason) == (0, "2026-11-24 is closed (closed_dates), and nothing was sent")
    assert done.advice.endswith("`notifierd once --force` runs this day now")


async def retried_at(dsn: str, settings: Settings, now: str, *, ran: bool = True) -> Retried:
    """Retry at a time of DAY, on which one mail has failed if there was a run."""
    async with open_database(dsn) as db:
        await application.create(db)
        await application.replace(db, some_offices(1, staff=1))
        if ran:
            await fail_one(db)
    moment = datetime.combine(DAY, time.fromisoformat(now), UTC)
    return await retry(evolve(settings, database=DatabaseSettings(dsn=dsn)), [State.FAILED], moment)


async def fail_one(db: Database) -> None:
    """A run of DAY, whose deliveries all failed."""
    ledger = PostgresLedger(db)
    await ledger.take_lease(DAY, "me")
    await ledger.plan(DAY, Rules())
    (office,) = some_offices(1).offices
    await PostgresSource(db).read(DAY, START, Rules(), Claim("me"))
    await ledger.fail_office(DAY, "me", office, "office_error:ValueError")
    await ledger.finish(DAY, "me", "completed", None)


# A race --------------------------------------------------------------------------------------------------------------


async def test_a_run_that_ends_while_a_retry_is_being_written_waits_for_it_and_is_not_completed(database: str) -> None:
    """The retry has its locks and has not committed; the run, which saw nothing open, wants to end."""
    async with open_database(database) as db, open_database(database) as other:
        await application.create(db)
        await application.replace(db, some_offices(1, staff=1))
        ledger = PostgresLedger(db)
        await fail_one(db)
        await ledger.take_lease(DAY, "me")
        written, commit = trio.Event(), trio.Event()

        async def slow_retry() -> None:
            async def unit(connection: Connection) -> None:
                async with connection.transaction():
                    await connection.fetch(deliveries.RETRY, DAY, ["failed"], [])
                    written.set()
                    while not commit.is_set():
                        await connection.fetch("select pg_sleep(0.01)")

            await other.unit(unit)

        finished: list[bool] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_retry)
            await written.wait()

            async def finish() -> None:
                finished.append(await ledger.finish(DAY, "me", "completed", None))

            nursery.start_soon(finish)
            await until_waiting(database)
            assert not finished
            commit.set()
        assert finished == [False]
        run = await ledger.run(DAY)
        assert run
        assert (run.state, run.reason) == ("interrupted", "retried")


async def until_waiting(dsn: str) -> None:
    """Wait until somebody waits for a lock."""
    async with open_database(dsn) as db:
        with trio.fail_after(30):
            while not await db.fetch("select from pg_stat_activity where wait_event_type = 'Lock'"):
                await db.fetch("select pg_sleep(0.01)")
