"""What an open page is told of a run, in virtual time."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import trio
from attrs import define, evolve, field

from notifierd.model.counts import ChannelCounts, Excess, Planned
from notifierd.model.delivery import Channel, State
from notifierd.model.outcome import Blocked, Deferred
from notifierd.rules.cluster.membership import Terms
from notifierd.service.state import Attempt
from notifierd.store.history import Day
from notifierd.web.archive import SHARED_KEPT_FOR, Shared
from notifierd.web.live import MOST_NAMED, NEWS_EVERY, QUIET_SECONDS, TICK, Live
from notifierd.web.server.http import Send
from notifierd.web.words.language import Words
from tests.support.fake_daemon import NINE, WINDOW, Daemon
from tests.support.members import a_member
from tests.support.samples import DAY, an_id, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, a_run

EN = Words("en", ZoneInfo("Asia/Tokyo"))
JA = evolve(EN, language="ja")


@define
class Page:
    """A page that is open: its events, and when they came."""

    heard: list[tuple[float, dict[str, Any]]] = field(factory=list)
    pieces: list[bytes] = field(factory=list)
    comments: list[float] = field(factory=list)

    async def take(self, piece: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if piece == b":\n\n":
            self.comments.append(trio.current_time())
            return
        self.pieces.append(piece)
        self.heard.append((trio.current_time(), json.loads(piece.removeprefix(b"event: now\ndata: "))))


@asynccontextmanager
async def open_pages(live: Live, *sends: Send, words: Words = EN) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for send in sends:
            nursery.start_soon(live.stream, words, lambda: True, send)
        yield
        nursery.cancel_scope.cancel()


def settle(attempt: Attempt, state: State, number: int = 1, channel: Channel = Channel.EMAIL) -> None:
    attempt.progress.end({(channel, state): number})


async def test_a_page_hears_what_is_the_case_and_then_only_what_is_new(autojump_clock):
    daemon, page = Daemon(), Page()
    attempt = daemon.begin(2, 3, 1)
    async with open_pages(Live(daemon), page.take):
        await trio.sleep(2.25)
        heard = len(page.heard)
        settle(attempt, State.SENT)
        await trio.sleep(TICK)
    assert [at for at, _ in page.heard[:heard]] == [0.0]
    (at, event) = page.heard[heard]
    assert at == 2.5
    assert event["headline"] == "Running Tue 24 Nov"
    assert {bar["key"]: (bar["done"], bar["total"], bar["text"]) for bar in event["bars"]} == {
        "offices": (0, 2, "0 of 2"),
        "mails": (1, 3, "1 of 3"),
        "pushes": (0, 1, "0 of 1"),
    }


async def test_a_thousand_events_to_fifty_pages_are_each_made_once_and_a_page_that_never_reads_costs_nothing(
    autojump_clock,
):
    """Mails settle between two ticks: of tasks that wake at the same moment, any may be the first."""
    daemon, pages = Daemon(), [Page() for _ in range(50)]
    live = Live(daemon)
    attempt = daemon.begin(1000, 1000, 0)
    waiting: list[bytes] = []

    async def never(piece: bytes) -> None:
        waiting.append(piece)
        await trio.sleep_forever()

    async with open_pages(live, *(page.take for page in pages), never):
        await trio.sleep(TICK / 2)
        for _ in range(1000):
            settle(attempt, State.SENT)
            await trio.sleep(TICK)
        assert live.streams == 51
    assert live.streams == 0
    assert {len(page.heard) for page in pages} == {1 + 1000}
    assert {page.heard[-1][1]["bars"][1]["done"] for page in pages} == {1000}
    assert len(waiting) == 1
    first, *others = pages
    assert all(other.pieces == first.pieces for other in others)


async def test_who_reads_slowly_gets_the_latest_and_not_what_was_missed(autojump_clock):
    """A page that takes 60 s for each event, in a run that settles one mail a second for five minutes."""
    daemon, page = Daemon(), Page()
    attempt = daemon.begin(300, 300, 0)

    async def slowly(piece: bytes) -> None:
        await page.take(piece)
        await trio.sleep(60.0)

    async with open_pages(Live(daemon), slowly):
        for _ in range(300):
            await trio.sleep(1.0)
            settle(attempt, State.SENT)
    assert len(page.heard) == 5
    done = [event["bars"][1]["done"] for _, event in page.heard]
    assert all(abs(mails - at) <= 1 for (at, _), mails in zip(page.heard, done, strict=True))


async def test_the_rate_is_that_of_the_last_ten_seconds_and_the_time_left_goes_by_it(autojump_clock):
    """Ten a second for a minute, of 1,000; then two a second."""
    daemon, page = Daemon(), Page()
    attempt = daemon.begin(10, 600, 400)
    async with open_pages(Live(daemon), page.take):
        for _ in range(600):
            await trio.sleep(0.1)
            settle(attempt, State.SENT)
        await trio.sleep(TICK / 2)
        fast = dict(page.heard[-1][1]["facts"])
        for _ in range(40):
            await trio.sleep(0.5)
            settle(attempt, State.SENT, channel=Channel.PUSH)
        slow = dict(page.heard[-1][1]["facts"])
    assert fast["rate"] == "10 a second"
    assert fast["time_left"] in {"about 39 s", "about 40 s", "about 41 s"}
    assert slow["rate"] == "2.0 a second"
    assert slow["time_left"] in {"about 3 min 0 s", "about 3 min 1 s"}  # 360 or 361 at 2 a second
    assert fast["until"] == "12:00"


async def test_who_looks_first_in_mid_run_is_told_the_rate_of_the_run_so_far(autojump_clock):
    daemon = Daemon()
    attempt = daemon.begin(10, 100, 0)
    await trio.sleep(20.0)
    settle(attempt, State.SENT, 50)
    assert dict(Live(daemon).now(EN).facts)["rate"] == "2.5 a second"
    settle(attempt, State.FAILED, 50)
    assert dict(Live(daemon).now(EN).facts)["time_left"] == "about 0 s"


async def test_of_a_shared_day_the_page_shows_what_all_processes_have_done(autojump_clock):
    """Until it was counted, and while the ledger cannot be read, what this one has done."""
    daemon, looked = Daemon(), list[date]()
    attempt = daemon.begin(50, 1000, 200)
    attempt.context = a_run(ShakyLedger(some_offices(1)), ScriptedSender(), terms=Terms(shares=True))
    mails, pushes = ChannelCounts(1000, sent=590, failed=10, open=400), ChannelCounts(200, sent=200)
    counted = Day(DAY, "running", None, None, NINE, None, 50, 1, mails, pushes, None, offices_done=30)
    members = (a_member(1, rate=30.0), a_member(2, rate=10.0))
    answers: list[Shared | None] = [Shared(evolve(counted, offices_done=None), members), Shared(counted, members), None]

    async def look_up(day: date) -> Shared | None:
        looked.append(day)
        return answers.pop(0)

    live = Live(daemon, look_up)
    settle(attempt, State.SENT, 100)
    await live.look()
    early = live.now(EN)
    assert [bar.text for bar in early.bars] == ["0 of 50", "100 of 1,000", "0 of 200"]
    await live.look()
    now = live.now(EN)
    assert [(bar.text, bar.note) for bar in now.bars] == [
        ("30 of 50", "1 failed"),
        ("600 of 1,000", "10 failed"),
        ("200 of 200", ""),
    ]
    facts = dict(now.facts)
    assert (facts["rate"], facts["time_left"], facts["members"]) == ("40 a second", "about 10 s", "2 (web1 leads)")
    await trio.sleep(NEWS_EVERY)
    assert live.now(EN).stamp != now.stamp, "the table of the processes is old"
    await live.look()
    assert [bar.text for bar in live.now(EN).bars] == [bar.text for bar in early.bars]
    daemon.status.attempt = None
    await live.look()
    assert looked == [DAY] * 3


async def test_nobody_looks_what_all_processes_do_while_nobody_watches_or_the_process_works_alone(autojump_clock):
    daemon, page, looked = Daemon(), Page(), list[float]()

    async def look_up(_: date) -> Shared | None:
        looked.append(trio.current_time())
        return None

    live = Live(daemon, look_up)
    attempt = daemon.begin(1, 1, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.keep_looking)
        async with open_pages(live, page.take):
            await trio.sleep(11.0)
        attempt.context = a_run(ShakyLedger(some_offices(1)), ScriptedSender(), terms=Terms(shares=True))
        await trio.sleep(10.0)
        assert looked == []
        async with open_pages(live, page.take):
            await trio.sleep(10.0)
        nursery.cancel_scope.cancel()
    assert len(looked) == 10.0 / SHARED_KEPT_FOR


async def test_offices_in_flight_are_named_the_longest_first_and_the_rest_counted(autojump_clock):
    daemon = Daemon()
    attempt = daemon.begin(10, 10, 0)
    for number in range(MOST_NAMED + 2):
        office = an_id(f"office {number}")
        attempt.progress.in_flight[office] = trio.current_time()
        attempt.progress.names[office] = f"O{number}\u202e" if number else ""
        await trio.sleep(1.0)
    facts = dict(Live(daemon).now(EN).facts)
    assert facts["in_flight"] == f"{an_id('office 0')} (7 s) · O1 (6 s) · O2 (5 s) · O3 (4 s) · O4 (3 s) · and 2 more"
    assert "ほか2件" in dict(Live(daemon).now(JA).facts)["in_flight"]


async def test_a_page_is_told_that_its_lists_are_old_when_a_run_begins_or_ends_or_more_failed(autojump_clock):
    """Failures: at most once in NEWS_EVERY seconds, and none is forgotten."""
    daemon = Daemon()
    live = Live(daemon)

    def stamp() -> str:
        return live.now(EN).stamp

    idle = stamp()
    assert stamp() == idle
    daemon.status.attempt = attempt = Attempt(WINDOW)
    attempt.progress.has_day = True
    planning = stamp()
    attempt.progress.planned = Planned(2, 9, 0)
    running = stamp()
    settle(attempt, State.SENT)
    assert stamp() == running
    settle(attempt, State.FAILED)
    failed = stamp()
    settle(attempt, State.FAILED)
    assert stamp() == failed
    await trio.sleep(NEWS_EVERY)
    again = stamp()
    await trio.sleep(NEWS_EVERY)
    assert stamp() == again
    daemon.status.attempt = None
    daemon.status.last = "2026-11-24 completed"
    over = stamp()
    daemon.status.refused = "reload refused at 09:12: limits.offices"
    refused = stamp()
    assert len({idle, planning, running, failed, again, over, refused}) == 7


async def test_a_page_that_shows_another_process_run_is_fetched_anew_now_and_then(autojump_clock):
    daemon = Daemon()
    daemon.status.enter("standing by: the lease is held by b", "standing_by", run="2026-11-24", holder="b:1:2")
    live = Live(daemon)
    before = live.now(EN)
    assert (before.headline, before.detail) == ("Standing by: another process is active", "Active process: b:1:2")
    await trio.sleep(NEWS_EVERY)
    assert live.now(EN).stamp != before.stamp


async def test_a_quiet_stream_says_that_it_lives(autojump_clock):
    """A day before the window: what is new is the minutes to go."""
    daemon, page = Daemon(), Page()
    daemon.status.event = "sleeping"
    await trio.sleep(4 * 3600.0)  # the window is over
    async with open_pages(Live(daemon), page.take):
        await trio.sleep(300.0)
    assert len(page.heard) == 6
    assert page.heard[0][1]["facts"] == [["next_window", "Wed 25 Nov 09:00 to 12:00 (in 20 h 0 min)"]]
    assert len(page.comments) == 5 * (60 / QUIET_SECONDS - 1)


async def test_a_stop_ends_every_stream_with_what_is_the_case_then(autojump_clock):
    daemon, pages = Daemon(), [Page(), Page()]
    attempt = daemon.begin(1, 1, 0)
    live = Live(daemon)
    with trio.fail_after(10.0):
        async with trio.open_nursery() as nursery:
            for page in pages:
                nursery.start_soon(live.stream, EN, lambda: True, page.take)
            await trio.sleep(1.1)
            attempt.stop.set("signal", 600.0)
            daemon.status.stopping = True
    assert trio.current_time() <= 1.1 + TICK
    assert {page.heard[-1][1]["headline"] for page in pages} == {"Stopping the run of Tue 24 Nov"}


async def test_a_stream_ends_with_its_session_and_tells_nothing_more(autojump_clock):
    daemon, page = Daemon(), Page()
    attempt = daemon.begin(1, 100, 0)
    with trio.fail_after(10.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Live(daemon).stream, EN, lambda: trio.current_time() < 1.1, page.take)
            for _ in range(20):
                await trio.sleep(TICK / 2)
                settle(attempt, State.SENT)
    assert page.heard[-1][0] <= 1.1


async def test_each_reader_has_words_of_their_own(autojump_clock):
    daemon, mine, theirs = Daemon(), Page(), Page()
    daemon.begin(2, 3, 0)
    live = Live(daemon)
    async with open_pages(live, mine.take), open_pages(live, theirs.take, words=JA):
        await trio.sleep(TICK)
    assert mine.heard[0][1]["headline"] == "Running Tue 24 Nov"
    assert theirs.heard[0][1]["headline"] == "実行中: 11月24日(火)分"
    assert mine.heard[0][1]["stamp"] == theirs.heard[0][1]["stamp"]


async def test_what_there_is_no_room_for_and_a_provider_that_is_out_stand_among_what_needs_attention(autojump_clock):
    daemon = Daemon()
    live = Live(daemon)
    attempt = daemon.begin(offices=9, email=20, push=0)
    offices = tuple(an_id(f"office {n}") for n in range(7))
    over = Excess("email_per_day", 13, 7, offices)
    attempt.progress.planned = Planned(9, 20, 0, excess=(over,))
    attempt.context = a_run(ShakyLedger(some_offices(1)), ScriptedSender("resend"))
    breakers = attempt.context.transports.breakers
    breakers["resend"].record([Blocked("blocked:401")], 0.0, an_id("office"))
    breakers["postmark"].record([Deferred("server_error:503", retry_after=60.0)], 0.0, an_id("office"))
    named = ", ".join(map(str, offices[:MOST_NAMED]))
    assert live.now(EN).alarms == (
        ("resend rejects our credentials or account", "blocked:401"),
        ("postmark is unavailable", "server_error:503"),
        ("Mails over the limit, not sent: 13; offices: 7", f"limits.email_per_day: {named}, ..."),
    )
    assert live.now(JA).alarms[2][0] == "メール13通（7事業所）は上限を超えるため送信されません"
