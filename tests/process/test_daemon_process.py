"""``notifierd run``, end to end: a real process with real signals, and somebody who listens where systemd does."""

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from notifierd.demo.application import Rows
from notifierd.demo.postgres import running_postgres
from notifierd.demo.servers.process import Servers
from notifierd.demo.servers.trouble import MailConfig, Rule
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import counting, until
from tests.support.processes import API_KEY, DOMAIN, Place, Template, an_id, invent, running_template

HANG = Rule(then="hang")
NOWHERE = "postgresql://somebody@/app?host=/no/such/folder"


def load(place: Place, rows: Rows, mail: MailConfig, **limits: object) -> None:
    """Fill the application; the window is open, and the mail API does as *mail* says."""
    place.load(rows)
    place.serve(rows, mail)
    place.configure(window=OPEN, limits=limits)


def making(*rules: Rule, latency_ms: float = 0.0, rejected: tuple[str, ...] = ()) -> MailConfig:
    """A mail API that makes this trouble."""
    return MailConfig(API_KEY, latency_ms, rejected, rules, keep_eml=False)


def sent(place: Place) -> set[str]:
    """The deliveries that the ledger has as sent."""
    return set(place.sql("select id from notifierd.deliveries where state = 'sent'").split())


def accepted(place: Place) -> set[str]:
    """The deliveries that the mail API accepted; each came once."""
    times = Counter(mail.delivery_id for mail in place.mails())
    assert set(times.values()) <= {1}
    return set(times)


async def finished(service: Service) -> None:
    """Wait until the day is done."""
    await until(lambda: service.shows("sleeping until"), "the run's end")


# A day --------------------------------------------------------------------------------------------------------------


@frozen
class Day:
    """What was seen of a daemon that was started in its window: two offices, one refused address, a call at a time.

    Attributes:
        reloaded: CLOCK_MONOTONIC in microseconds before and after the reload, which came in mid-run.
        failed: the id of the delivery that was refused.
        log: stderr's lines.
    """

    service: Service
    reloaded: tuple[int, int]
    failed: str
    log: list[dict[str, Any]]


@pytest.fixture(scope="module")
def day(template: Template, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with template.place(tmp_path_factory.mktemp("day"), servers) as place:
        load(place, invent(2, day=TODAY), making(rejected=(f"o1s0@{DOMAIN}",)), email=1)
        yield trio.run(watch_a_day, place)


async def watch_a_day(place: Place) -> Day:
    async with running_service(place) as service:
        with place.frozen_servers():
            await until(lambda: place.calls_in_flight() == 1, "a call in flight")
            before = time.monotonic_ns() // 1000
            service.tell(signal.SIGHUP)
            await until(lambda: service.heard("READY=1", 2), "the reload")
            after = time.monotonic_ns() // 1000
            service.tell(signal.SIGUSR1)
            await until(lambda: service.said("state"), "an answer to SIGUSR1")
        await finished(service)
        service.tell(signal.SIGTERM)
        log = [json.loads(line) for line in await service.ended(0)]
    failed = place.sql("select id from notifierd.deliveries where state = 'failed'")
    return Day(service, (before, after), failed, log)


def test_systemd_hears_of_the_start_the_run_the_reload_and_the_stop(day: Day):
    heard = [text for _, text in day.service.told if not text.startswith(("STATUS=", "WATCHDOG=1"))]
    start, ready, reloading, again, stopping = heard
    assert (start, ready, again) == ("EXTEND_TIMEOUT_USEC=30000000", "READY=1", "READY=1")
    said = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
    assert said
    assert day.reloaded[0] <= int(said[1]) <= day.reloaded[1]
    assert re.fullmatch(r"STOPPING=1\nEXTEND_TIMEOUT_USEC=\d+", stopping)
    statuses = day.service.statuses
    last = f"last run {TODAY} completed: 3 mails, 0 pushes sent, 1 not"
    assert statuses[0] == "starting"
    assert f"running {TODAY}: 0 of 2 offices, 0 mails" in statuses
    assert re.fullmatch(rf"sleeping until .* 00:00 \S+; {last}", statuses[-2])
    assert statuses[-1] == f"stopping; {last}"


def test_log_lines_are_json_with_the_run_the_office_and_the_delivery_as_fields(day: Day):
    assert [line["event"] for line in day.log if "run" not in line and line["event"] != "listening"] == [
        "ready",
        "reloaded",
        "state",
        "sleeping",
        "stopping",
        "stopped",
    ]
    assert [line["event"] for line in day.log if line.get("run") == str(TODAY)] == [
        "planned",
        "not_delivered",
        "ended",
        "report",
    ]
    assert all(line.keys() >= {"event", "level", "timestamp"} for line in day.log)
    (lost,) = (line for line in day.log if line["event"] == "not_delivered")
    assert (lost["delivery"], lost["office"], lost["channel"]) == (day.failed, str(an_id("o1")), "email")
    assert (lost["level"], lost["reason"]) == ("warning", "rejected:item")


def test_sigusr1_in_mid_run_is_answered_by_one_line_with_limiters_channels_and_offices_in_flight(day: Day):
    (state,) = (line for line in day.log if line["event"] == "state")
    assert state["status"] == f"running {TODAY}: 0 of 2 offices, 0 mails"
    assert state["limiters"] == {
        "offices": "2 of 10, 0 waiting",
        "email": "1 of 1, 0 waiting",
        "email resend": "1 of 1, 1 waiting",
        "push": "0 of 20, 0 waiting",
    }
    assert state["channels"] == {"reserving": 0, "unwritten": 0}
    assert state["offices"].keys() == {str(an_id("o0")), str(an_id("o1"))}
    assert state["tasks"] > 0


# The end ------------------------------------------------------------------------------------------------------------


async def test_sigterm_in_mid_run_leaves_no_outcome_unrecorded_and_the_next_start_sends_only_the_rest(place: Place):
    """Mails of 200 ms, four at once, and a grace of which they need little."""
    rows = invent(120, staff=1, day=TODAY)
    load(place, rows, making(latency_ms=200.0), email=4)
    async with running_service(place) as service:
        await until(lambda: len(place.mails()) >= 8, "the first mails")
        stopped = trio.current_time()
        service.tell(signal.SIGTERM)
        await service.ended(4)
        assert trio.current_time() - stopped < 15  # of 20 s of grace
    first = accepted(place)
    assert 8 <= len(first) == len(sent(place)) < 120
    assert first == sent(place)
    assert place.states() == {"sent": len(first), "planned": 120 - len(first)}
    assert place.sql("select state, reason, holder from notifierd.runs") == "interrupted|signal|"

    place.serve(rows)
    async with running_service(place) as service:
        await finished(service)
        service.tell(signal.SIGTERM)
        await service.ended(0)
    assert accepted(place) == sent(place) > first
    assert place.states() == {"sent": 120}
    assert place.sql("select count(*), count(distinct target_id) from audit_logs") == "120|120"


async def test_a_second_sigint_stops_at_once(place: Place):
    """A call that is never answered, and ten minutes of grace."""
    load(place, invent(1, staff=1, day=TODAY), making(HANG), send_timeout=600.0, shutdown_grace=600.0)
    async with running_service(place) as service:
        await until(lambda: place.states() == {"sending": 1}, "a call in flight")
        service.tell(signal.SIGINT)
        await until(lambda: service.heard("STOPPING=1"), "the first to be heard")
        assert service.heard("STOPPING=1\nEXTEND_TIMEOUT_USEC=63")  # 600 s, what it takes beyond, and 30 s
        service.tell(signal.SIGINT)
        await service.ended(4)
    assert place.states() == {"sending": 1}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_sleeping_daemon_that_is_stopped_ends_well(place: Place, signum: signal.Signals):
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await finished(service)
        service.tell(signum)
        await service.ended(0)
    assert service.statuses[-1] == "stopping"


async def test_a_daemon_that_waits_for_its_database_and_is_stopped_ends_well(place: Place):
    place.configure(window=OPEN, database={"dsn": NOWHERE})
    async with running_service(place) as service:
        await until(lambda: service.shows("waiting for the database"), "the wait")
        service.tell(signal.SIGTERM)
        await service.ended(0)
    assert not service.heard("READY=1")


# The start ----------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_down_at_the_start_is_waited_for(servers: Servers, tmp_path: Path):
    with (
        running_postgres(tmp_path / "postgres") as cluster,
        running_template(cluster, tmp_path) as template,
        template.place(tmp_path, servers) as place,
    ):
        load(place, invent(1, day=TODAY), making())
        cluster.stop()
        async with running_service(place) as service:
            await until(lambda: service.shows("waiting for the database (database_unavailable:"), "the wait")
            assert not service.heard("READY=1")
            cluster.start()
            await finished(service)
            service.tell(signal.SIGTERM)
            await service.ended(0)
        assert service.heard("READY=1")
        assert service.count("waiting_for_database") == 1
        assert len(accepted(place)) == 2


async def test_a_configuration_that_is_no_good_ends_it_with_a_line_for_each_mistake(place: Place):
    place.configure(limits={"offices": 0}, window={"at": "25:00"}, email={"sender": ""}, log={"colour": "red"})
    async with running_service(place) as service:
        lines = await service.ended(2)
    named = [re.fullmatch(r"notifierd: (\S+): .+", line) for line in lines]
    assert [found and found[1] for found in named] == ["window.at", "limits.offices", "log.colour"]
    assert service.told == []


async def test_without_its_schema_it_ends_with_what_to_do_about_that(place: Place, database: str):
    place.configure(database={"dsn": database})
    async with running_service(place) as service:
        *_, line = await service.ended(2)
    assert line.startswith("notifierd: ")
    assert "notifierd db init" in line
    assert not service.heard("READY=1")


# Reload -------------------------------------------------------------------------------------------------------------


def spoil(place: Place, number: int) -> None:
    """Have something there that no daemon can go on with."""
    config, templates = place.folder / "config.toml", place.folder / "templates"
    templates.mkdir(exist_ok=True)
    (templates / "mail.ja.txt").write_text("{% if %}", encoding="utf-8")
    tables: list[dict[str, dict[str, object]]] = [
        {"limits": {"offices": 0}},
        {"limits": {"office": 5}},
        {"email": {"provider": "pigeon"}},
        {"email.resend": {"api_key": f"{API_KEY} and more"}},
        {"content": {"templates": str(templates)}},
        {"content": {"templates": str(config)}},
        {"safety": {"database_id": "1234567890"}},
        {"database": {"dsn": NOWHERE}},
    ]
    texts = [b"", b"\xff\xfe[limits]", f'[email.resend]\napi_key = "{API_KEY}\n'.encode()]
    turn = number % (len(tables) + len(texts) + 1)
    if turn < len(tables):
        place.configure(window=OPEN, **tables[turn])
    elif turn < len(tables) + len(texts):
        config.write_bytes(texts[turn - len(tables)])
    else:
        config.unlink()


async def test_200_reloads_in_mid_run_a_third_of_them_refused_cost_nobody_anything(place: Place):
    """Three or four mails of a second at once, then two, as the last good file has it."""
    rows = invent(400, staff=1, day=TODAY)
    load(place, rows, making(latency_ms=1000.0))
    async with counting(place.servers.mail_url) as (turnstile, url):

        def configure(email: int) -> None:
            way = {"email.resend": {"base_url": url}}
            place.configure(window=OPEN, limits={"email": email}, **way)

        configure(3)
        async with running_service(place) as service:
            await until(lambda: turnstile.passed > 0, "the first mail")
            for number in range(198):
                told = len(service.times("READY=1"))
                if number % 3:
                    configure(2 + number % 3)
                else:
                    spoil(place, number // 3)
                service.tell(signal.SIGHUP)
                if number % 7 == 6:  # between these, more come than can be worked off
                    await until(partial(service.heard, "READY=1", told + 1), "a reload to be over")
            configure(2)
            good = service.count("reloaded")
            service.tell(signal.SIGHUP)
            await until(lambda: service.count("reloaded") > good, "the last good file")
            spoil(place, 0)
            service.tell(signal.SIGHUP)
            await until(lambda: service.shows("limits.offices"), "the last bad one")

            place.serve(rows, making(latency_ms=200.0))
            await until(lambda: turnstile.inside <= 2, "what was begun before")
            turnstile.most, passed = 0, turnstile.passed
            await until(lambda: turnstile.passed >= passed + 20, "more mails")
            assert turnstile.most == 2
            assert place.states()["planned"] > 0
            service.tell(signal.SIGUSR1)
            await until(lambda: service.said("state"), "an answer to SIGUSR1")
            place.serve(rows)
            await finished(service)
            service.tell(signal.SIGTERM)
            log = [json.loads(line) for line in await service.ended(0)]

    (state,) = (line for line in log if line["event"] == "state")
    assert re.fullmatch(r"\d of 2, \d waiting", state["limiters"]["email"])
    assert "; reload refused at 1" in state["status"]
    assert accepted(place) == sent(place)
    assert place.states() == {"sent": 400}
    assert place.sql("select count(*), count(distinct target_id) from audit_logs") == "400|400"
    heard = [text.split("\n")[0] for _, text in service.told if text.startswith(("READY=1", "RELOADING=1"))]
    good, refused = service.count("reloaded"), service.count("reload_refused")
    assert heard == ["READY=1", *["RELOADING=1", "READY=1"] * (good + refused)]
    assert good >= 10
    assert refused >= 10


async def test_reloads_leave_nothing_open(place: Place):
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await finished(service)
        files = Path(f"/proc/{service.process.pid}/fd")
        opened = []
        for number in range(10):
            service.tell(signal.SIGHUP)
            await until(partial(service.heard, "READY=1", 2 + number), "the reload")
            opened.append(len(list(files.iterdir())))
        service.tell(signal.SIGTERM)
        await service.ended(0)
    assert max(opened) - min(opened) < 5, "one or two may be open just then; a leak would have left nine"


# The watchdog -------------------------------------------------------------------------------------------------------


async def test_a_sleeping_daemon_feeds_the_watchdog_and_a_frozen_one_does_not(place: Place):
    place.configure(window=AHEAD)
    async with running_service(place, watchdog=2.0) as service:
        await finished(service)
        await until(lambda: service.heard("WATCHDOG=1", 8), "the watchdog to be fed")
        service.tell(signal.SIGSTOP)
        await until(lambda: service.silent_for(3.0, "WATCHDOG=1"), "silence")
        fed = len(service.times("WATCHDOG=1"))
        service.tell(signal.SIGCONT)
        await until(lambda: service.heard("WATCHDOG=1", fed + 2), "the watchdog to be fed again")
        service.tell(signal.SIGTERM)
        await service.ended(0)


async def test_a_run_whose_only_call_hangs_does_not_feed_the_watchdog_though_all_else_lives(place: Place):
    """A call that may take 600 s, and a watchdog of 2 s: the lease is renewed, signals are answered, nothing is fed."""
    load(place, invent(1, staff=1, day=TODAY), making(HANG), send_timeout=600.0)
    async with running_service(place, watchdog=2.0) as service:
        await until(lambda: place.states() == {"sending": 1}, "a call in flight")
        lease = "select lease_until from notifierd.runs"
        first = place.sql(lease)
        await until(lambda: service.silent_for(3.0, "WATCHDOG=1"), "silence")
        fed = len(service.times("WATCHDOG=1"))
        await until(lambda: place.sql(lease) > first, "the lease to be renewed")
        service.tell(signal.SIGUSR1)
        await until(lambda: service.said("state"), "an answer to SIGUSR1")
        assert len(service.times("WATCHDOG=1")) == fed
        service.tell(signal.SIGINT)
        await until(lambda: service.heard("STOPPING=1"), "the first SIGINT to be heard")
        service.tell(signal.SIGINT)
        await service.ended(4)
    assert service.said("watchdog_short")
