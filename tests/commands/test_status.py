"""``notifierd status`` and ``history``, as processes, and what they say of a day."""

import json
import re
from datetime import UTC, datetime, time, timedelta
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from rich.console import Console

from notifierd import __version__
from notifierd.cli.tables import MOST_OFFICES, print_history, print_plan, print_status
from notifierd.commands.plan import AlertCount, Plan, PlannedOffice, PlannedStaff
from notifierd.commands.status import PastDay, StatusReport, status_report
from notifierd.config.settings import DatabaseSettings, Settings
from notifierd.demo.servers.trouble import MailConfig
from notifierd.model.counts import ChannelCounts
from notifierd.model.delivery import Channel
from notifierd.model.feedback import DayFeedback, MailStatus
from notifierd.rules.calendar import Window
from notifierd.store.history import Day, Open, UntoldTotal
from tests.support.daemon_process import AHEAD, OPEN, TODAY
from tests.support.documented import differences, documented
from tests.support.members import a_member
from tests.support.processes import API_KEY, DOMAIN, Place, ended, invent, run, running
from tests.support.processes import until as until_now
from tests.support.samples import DAY, an_id

pytestmark = pytest.mark.usefixtures("_forked_commands")

TOKYO = ZoneInfo("Asia/Tokyo")
SHAPE = documented("status --json")


def status(place: Place, code: int = 0) -> dict[str, Any]:
    found = run("status", "--json", cwd=place.folder, code=code).report
    assert differences(found, SHAPE) == []
    return found


def history(place: Place, *args: str) -> list[dict[str, Any]]:
    days: list[dict[str, Any]] = json.loads(run("history", "--json", *args, cwd=place.folder, code=0).out)
    assert differences(days, [SHAPE["last_run"]]) == []
    return days


# Processes -----------------------------------------------------------------------------------------------------------


def test_a_new_installation_has_no_run_and_a_window_to_come(place: Place) -> None:
    place.configure(window=AHEAD)
    found = status(place)
    assert (found["version"], found["database"], found["last_run"]) == (__version__, None, None)
    assert (found["missed"], found["open"]) == ([], [])
    assert (found["next_window"]["day"], found["next_window"]["open"]) == (str(TODAY), False)
    assert history(place) == []
    assert run("history", cwd=place.folder, code=0).out == "no run yet\n"


def test_the_last_run_is_told_as_its_report_has_it(place: Place) -> None:
    place.load(rows := invent(4, day=TODAY))
    place.serve(rows, MailConfig(API_KEY, rejected=(f"o1s0@{DOMAIN}",), keep_eml=False))
    place.configure(window=AHEAD)
    report = run("once", "--json", cwd=place.folder, code=1).report
    before = place.content()
    last = status(place)["last_run"]
    (day,) = history(place)
    assert last == day
    assert place.content() == before
    for part in ("day", "reason", "offices", "email", "push", "untold"):
        assert last[part] == report[part], part
    assert last["feedback"] == dict.fromkeys(map(str, MailStatus), 0) | {"not_known": last["email"]["sent"]}
    assert (last["state"], last["holder"]) == ("completed", None)
    took = datetime.fromisoformat(last["finished_at"]) - datetime.fromisoformat(last["started_at"])
    assert timedelta() < took < timedelta(seconds=report["seconds"])


def test_a_run_in_progress_has_a_holder_and_what_is_open(place: Place) -> None:
    place.load(invent(6, staff=1, day=TODAY))
    place.configure(window=OPEN, limits={"email": 2})
    with running("once", "--json", cwd=place.folder) as process:
        with place.frozen_servers():
            until_now(lambda: place.states() == {"sending": 2, "planned": 4}, "two calls in flight")
            found = status(place)
            words = run("status", cwd=place.folder, code=0).out
        ended(process, 0)
    assert (found["last_run"]["state"], found["last_run"]["untold"]) == ("running", None)
    assert re.fullmatch(r"\S+:\d+:[0-9a-f]{8}", found["last_run"]["holder"])
    (member,) = found["members"]
    assert (member["name"], member["leads"], member["slots"]) == (
        found["last_run"]["holder"],
        True,
        {"email": 2, "push": 20},
    )
    (line,) = [line for line in words.splitlines() if member["name"] in line and " leads " in line]
    assert line.startswith(member["host"])
    (left,) = found["open"]
    assert (left["channel"], left["planned"], left["sending"], left["waiting"]) == ("email", 4, 2, 2)
    assert found["next_window"]["open"]
    assert f"lease        held by {found['last_run']['holder']}\n" in words
    left = rf"open         6 mails of {TODAY}, 2 being sent, 2 not before \d\d:\d\d:\d\d \S+"
    assert [line for line in words.splitlines() if re.fullmatch(left, line)]
    assert status(place)["last_run"]["holder"] is None
    assert status(place)["members"] == []


def test_a_database_out_of_reach_is_exit_3_and_the_calendar_is_told_all_the_same(place: Place) -> None:
    place.configure(window=AHEAD, database={"dsn": f"postgresql://me@/nowhere?host={place.folder}"})
    found = status(place, code=3)
    assert found["database"].startswith("database_unavailable:")
    assert (found["last_run"], found["next_window"]["day"]) == (None, str(TODAY))
    done = run("status", cwd=place.folder, code=3)
    assert re.fullmatch(r"next window  .* 23:00 to .* 23:59 \S+ \(in \d+ h \d\d min\)\n", done.out)
    assert done.err.startswith("notifierd: the database is unreachable")
    assert run("history", cwd=place.folder, code=3).out == ""


def test_history_gives_no_more_days_than_are_asked_for(place: Place) -> None:
    place.sql(
        "insert into notifierd.runs (day, state, reason, finished_at)"
        f" select '{TODAY}'::date - n, 'missed', 'not_running', now() from generate_series(1, 40) n"
    )
    assert len(history(place)) == 30
    assert [day["day"] for day in history(place, "--days", "2")] == [str(TODAY - timedelta(days=n)) for n in (1, 2)]
    assert "not in the range 1<=x<=400" in run("history", "--days", "0", cwd=place.folder, code=2).err


def test_history_counts_a_day_whose_run_was_cut_once_and_shows_how_far_it_is(place: Place) -> None:
    place.load(rows := invent(2, day=DAY))
    place.serve(rows, MailConfig(API_KEY, keep_eml=False))
    run("once", "--force", "--day", str(DAY), "--json", cwd=place.folder, code=0)
    before = history(place)
    place.sql("update notifierd.runs set counts = null")
    place.cluster.psql(f'alter database "{place.database}" set default_transaction_read_only = on')
    assert history(place) == before
    place.cluster.psql(f'alter database "{place.database}" reset default_transaction_read_only')
    assert place.sql("select counts is null from notifierd.runs") == "t", "what takes no writes keeps nothing"
    done = run("history", "--json", cwd=place.folder, environ={"FORCE_COLOR": "1", "TERM": "xterm"}, code=0)
    assert json.loads(done.out) == before
    assert "counting days" in done.err
    assert place.sql("select counts is null from notifierd.runs") == "f"
    assert run("history", "--json", cwd=place.folder, environ={"FORCE_COLOR": "1", "TERM": "xterm"}, code=0).err == ""


# The last run --------------------------------------------------------------------------------------------------------


async def test_the_last_run_is_the_newest_that_was_one_and_what_was_missed_since_is_named(place: Place) -> None:
    place.sql(
        "insert into notifierd.runs (day, state, reason) values"
        " ('2026-11-18', 'missed', 'not_running'), ('2026-11-19', 'completed', null),"
        " ('2026-11-20', 'missed', 'slept_through'), ('2026-11-21', 'skipped', 'weekend: saturday'),"
        " ('2026-11-24', 'missed', 'not_running')"
    )
    now = datetime.combine(DAY, time(4), UTC)
    found = await status_report(Settings(database=DatabaseSettings(dsn=place.dsn)), now)
    assert found.last
    assert str(found.last.day.day) == "2026-11-19"
    assert [str(missed.day.day) for missed in found.missed] == ["2026-11-24", "2026-11-20"]
    assert (str(found.today), str(found.window.day), found.closed) == ("2026-11-24", "2026-11-25", None)
    sunday = await status_report(Settings(database=DatabaseSettings(dsn=place.dsn)), now - timedelta(days=2))
    assert (sunday.closed, [str(missed.day.day) for missed in sunday.missed]) == ("weekend: sunday", ["2026-11-20"])
    assert str(sunday.window.day) == "2026-11-24"


# What a person sees --------------------------------------------------------------------------------------------------

NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
GOOD = Day(
    day=DAY,
    state="completed",
    reason=None,
    holder=None,
    started_at=NINE,
    finished_at=NINE + timedelta(minutes=12),
    offices=1200,
    offices_failed=0,
    email=ChannelCounts(planned=5010, sent=5010),
    push=ChannelCounts(),
    untold=UntoldTotal(0, 0, 0),
)
BAD = evolve(
    GOOD,
    state="interrupted",
    reason="signal",
    finished_at=NINE + timedelta(hours=2, minutes=5),
    offices_failed=2,
    email=ChannelCounts(planned=5010, sent=5000, failed=1, unknown=2, expired=3, open=4),
    push=ChannelCounts(planned=30, sent=21, gone=9),
    untold=UntoldTotal(alerts=7, overdue=3, offices=2),
)
NOTHING = dict.fromkeys(MailStatus, 0)
LOST = DayFeedback(
    {**NOTHING, MailStatus.DELIVERED: 3798, MailStatus.BOUNCED: 1200, MailStatus.COMPLAINED: 1}, 1, is_known=True
)
REPORT = StatusReport(
    now=NINE + timedelta(hours=4),
    today=DAY,
    window=Window(DAY + timedelta(days=1), NINE + timedelta(days=1), NINE + timedelta(days=1, hours=3)),
    closed=None,
)


def screen(*, terminal: bool = False, width: int = 1000) -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, width=width, force_terminal=terminal, color_system=None, highlight=False), out


def shown(found: StatusReport) -> list[str]:
    console, out = screen()
    print_status(found, TOKYO, console)
    return out.getvalue().splitlines()


def test_a_good_day_is_told_in_a_few_lines() -> None:
    assert shown(evolve(REPORT, last=PastDay(GOOD))) == [
        "last run     2026-11-24: completed, began 09:00 JST, took 12 min",
        "             1,200 offices",
        "             5,010 of 5,010 mails sent",
        "             0 of 0 pushes sent",
        "open         nothing",
        "lease        free",
        "next window  Wed 25 Nov 09:00 to Wed 25 Nov 12:00 Asia/Tokyo (in 20 h 00 min)",
    ]


def test_a_bad_day_says_what_is_bad() -> None:
    lines = shown(evolve(REPORT, last=PastDay(BAD, LOST), open=(Open(DAY, Channel.EMAIL, 4, 0, 0, None),), missed=()))
    assert lines[:7] == [
        "last run     2026-11-24: interrupted (signal), began 09:00 JST, took 2 h 05 min",
        "             1,200 offices, 2 failed",
        "             5,000 of 5,010 mails sent, 1 failed, 2 unknown, 3 expired, 4 open",
        "             21 of 30 pushes sent, 9 gone",
        "             7 alerts reached nobody, 3 overdue, in 2 offices",
        "came back    1,200 bounced, 1 complained; nothing is known of 1 mail",
        "open         4 mails of 2026-11-24",
    ]


def test_who_works_on_a_day_is_a_table() -> None:
    working = evolve(
        REPORT, last=PastDay(GOOD), members=(a_member(1), a_member(2, rate=0.0)), now=NINE + timedelta(minutes=5)
    )
    header, first, second = (re.split(r"  +", line.strip()) for line in shown(working)[6:9])
    assert header == [
        *("host", "process", "version", "mail slots", "push slots"),
        *("rate", "offices done", "in hand", "renewed"),
    ]
    assert first == ["web1", "web1:811:5f3a09c1", "0.1.0", "leads", "3", "10", "41.5/s", "512", "6", "60 s ago"]
    assert second == ["web2", "web2:812:5f3a09c2", "0.1.0", "3", "10", "0.0/s", "512", "6", "60 s ago"]


def test_a_closed_day_an_open_window_and_missed_days() -> None:
    closed = evolve(REPORT, closed="holiday: 勤労感謝の日", database="database_unavailable:OSError")
    assert shown(closed)[-1].endswith("Asia/Tokyo (in 20 h 00 min); today is closed: holiday: 勤労感謝の日")
    opened = evolve(REPORT, window=Window(DAY, NINE, REPORT.now + timedelta(seconds=59)))
    assert shown(opened)[-1] == "window       open until Tue 24 Nov 13:00 Asia/Tokyo (for 59.0 s)"
    missed = evolve(GOOD, state="missed", reason="slept_through")
    assert shown(evolve(REPORT, missed=(PastDay(missed),)))[:2] == [
        "missed       2026-11-24 (slept_through)",
        "last run     none yet",
    ]


def test_history_is_one_line_a_day_with_figures_for_those_that_had_a_run() -> None:
    console, out = screen()
    missed = evolve(GOOD, day=DAY - timedelta(days=1), state="missed", reason="not_running", started_at=None)
    running = evolve(GOOD, state="running", finished_at=None, untold=None)
    quiet, unasked = DayFeedback(NOTHING, 5010, is_known=True), DayFeedback(NOTHING, 5010, is_known=False)
    shown = (PastDay(running, unasked), PastDay(BAD, LOST), PastDay(missed), PastDay(GOOD, quiet))
    print_history(shown, TOKYO, console)
    lines = out.getvalue().splitlines()
    columns = ["day", "offices", "mails", "pushes", "lost", "untold", "overdue", "came back", "began", "took"]
    assert re.split(r"  +", lines[0]) == columns
    assert ["|".join(re.split(r"  +", line)) for line in lines[1:]] == [
        "2026-11-24 Tue|running|1,200|5,010|0|0|not known|09:00 JST",
        "2026-11-24 Tue|interrupted (signal)|1,200|5,000 of 5,010|21 of 30|6|7|3|1,201|09:00 JST|2 h 05 min",
        "2026-11-23 Mon|missed (not_running)",
        "2026-11-24 Tue|completed|1,200|5,010|0|0|0|0|0|09:00 JST|12 min",
    ]


@pytest.mark.parametrize(
    ("took", "words"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min"), (7140, "119 min"), (7260, "2 h 01 min"), (172_800, "2 days")],
)
def test_lengths_of_time_in_words(took: float, words: str) -> None:
    line = shown(evolve(REPORT, last=PastDay(evolve(GOOD, finished_at=NINE + timedelta(seconds=took)))))[0]
    assert line.endswith(f", took {words}")


def test_markup_in_a_name_is_a_name() -> None:
    office = PlannedOffice(
        an_id("o"), "[red]赤[/] \x1b[31m", 3, AlertCount(1, 0), (PlannedStaff(an_id("s"), AlertCount(1, 0), None, 0),)
    )
    console, out = screen()
    print_plan(Plan(DAY, None, 0, (office,), (), ()), console)
    assert out.getvalue().splitlines()[2].endswith(f"{office.office_id}  [red]赤[/] [31m")


def test_a_terminal_is_shown_the_most_urgent_offices_and_how_many_more_there_are() -> None:
    offices = tuple(
        PlannedOffice(
            an_id(f"o{n}"), f"Office {n}", n, AlertCount(1, 0), (PlannedStaff(an_id("s"), AlertCount(1, 0), None, 0),)
        )
        for n in range(MOST_OFFICES + 3)
    )
    console, out = screen(terminal=True, width=120)
    print_plan(Plan(DAY, None, 0, offices, (), ()), console)
    text = out.getvalue()
    assert (f"Office {MOST_OFFICES - 1} " in text, f"Office {MOST_OFFICES} " in text) == (True, False)
    assert "... and 3 more offices" in text
