"""``notifierd run`` and ``once``, and receivers that listen: what the operator hears of real processes."""

import re
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest
import trio
from attrs import evolve

from notifierd.demo.servers.trouble import MailConfig
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import deaf_port, until
from tests.support.processes import API_KEY, DOMAIN, Place, an_id, invent, run
from tests.support.receivers import SECRET, Answer, Receivers, receiving

REFUSING_US = MailConfig("another key", keep_eml=False)


def quiet(service: Service) -> None:
    """Neither its log nor what systemd was told has the receivers' secret."""
    assert SECRET not in f"{service.lines}{service.told}"


async def stopped(service: Service, code: int) -> None:
    service.tell(signal.SIGTERM)
    await service.ended(code)
    quiet(service)


def with_a_missed_day(place: Place, watch: dict[str, object]) -> None:
    """The day before yesterday had a run, and yesterday will be found missed; today's window is ahead."""
    place.sql(f"insert into notifierd.runs (day, state) values ('{TODAY - timedelta(days=2)}', 'completed')")
    place.configure(window=AHEAD, watch=watch)


async def test_each_cause_is_told_once_over_a_kill_a_standby_and_a_restart(place: Place):
    """Twelve offices, one of them without staff, and a provider that refuses us; with the third process, two mails."""
    rows = invent(12, staff=1, day=TODAY)
    rows = evolve(rows, links=rows.links[1:])
    place.load(rows)
    place.serve(rows, REFUSING_US)
    receivers = Receivers()
    async with receiving(receivers) as urls:
        place.configure(window=OPEN, watch={**urls, "run_seconds": 1.0})
        async with running_service(place) as first:
            await until(lambda: len(receivers.alarms) == 2, "the first alarms")
            async with running_service(place) as second:
                await until(lambda: second.said("standing_by"), "the standby")
                first.tell(signal.SIGKILL)
                await first.over()
                place.sql("update notifierd.runs set lease_until = now()")
                await until(lambda: second.said("sender_blocked"), "the standby to be refused, too")
                await trio.sleep(2.5)  # for it to be slow, too
                await stopped(second, 4)
        assert sorted(receivers.causes) == ["blocked:resend", "slow"]

        place.serve(rows, MailConfig(API_KEY, rejected=(f"o1s0@{DOMAIN}", f"o2s0@{DOMAIN}"), keep_eml=False))
        for _ in range(2):
            async with running_service(place) as service:
                await until(partial(service.shows, "sleeping until"), "the run's end")
                await stopped(service, 0)
    assert sorted(receivers.causes) == ["blocked:resend", "failures", "slow", "untold"]
    assert {alarm.day for alarm in receivers.alarms} == {str(TODAY)}
    assert receivers.signals == ["start", "start", "start", "fail"]
    assert len({ping.rid for ping in receivers.pings}) == 1
    texts = {alarm.cause: alarm.json["text"] for alarm in receivers.alarms}
    assert "resend が認証情報またはアカウントを拒否しています（blocked:403）" in texts["blocked:resend"]
    assert f"{TODAY} の配信 11 件のうち 2 件が誰にも届きませんでした" in texts["failures"]
    assert {str(an_id("o1")), str(an_id("o2"))} <= set(texts["failures"].splitlines())
    assert f"{TODAY} の期限超過のアラート 3 件（事業所 3 か所）" in texts["untold"]
    assert {str(an_id(name)) for name in ("o0", "o1", "o2")} <= set(texts["untold"].splitlines())
    assert place.sql("select count(*) from notifierd.alarms") == "4"
    heard = [*texts.values(), *(ping.body.decode() for ping in receivers.pings)]
    assert not [text for text in heard if re.search(rf"(職員|利用者)\s*o\d|@{DOMAIN}", text)]


@pytest.mark.parametrize(
    ("answers", "told"), [((200,), "watch_told"), ((302,), "watch_not_told"), ((500, 200), "watch_told")]
)
async def test_what_a_receiver_answers_decides_whether_it_is_asked_again(
    answers: tuple[Answer, ...], told: str, place: Place
):
    left = list(answers)
    receivers = Receivers(answers=lambda _: left.pop(0))
    async with receiving(receivers) as urls:
        with_a_missed_day(place, {**urls, "ping_url": ""})
        async with running_service(place) as service:
            await until(lambda: service.said(told), told)
            await stopped(service, 0)
    assert [got.path for got in receivers.got] == [f"/hook/{SECRET}"] * len(answers)
    assert set(receivers.causes) == {"missed"}


async def test_receivers_that_hang_hold_up_no_run_and_a_stop_for_five_seconds(place: Place):
    rows = invent(30, staff=1, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, rejected=(f"o1s0@{DOMAIN}",), keep_eml=False))
    receivers = Receivers(answers=lambda _: None)
    async with receiving(receivers) as urls:
        place.configure(window=OPEN, watch={**urls, "failure_ratio": 0.0})
        async with running_service(place) as service:
            await until(lambda: service.shows("sleeping until"), "the run's end")
            await until(lambda: bool(receivers.alarms), "the alarm")
            began = time.monotonic()
            await stopped(service, 0)
            assert time.monotonic() - began < 5.0 + 15.0
        assert service.said("watch_cut")
    assert place.states() == {"sent": 29, "failed": 1}


async def test_receivers_that_are_not_there_are_given_up_at_a_stop(place: Place):
    with deaf_port() as url:
        with_a_missed_day(place, {"webhook_url": f"{url}/hook/{SECRET}", "ping_url": f"{url}/ping/{SECRET}"})
        async with running_service(place) as service:
            await until(lambda: place.sql("select count(*) from notifierd.alarms") == "1", "the alarm")
            await stopped(service, 0)
    given_up = [(line["to"], line["reason"]) for line in service.lines if line["event"] == "watch_not_told"]
    assert sorted(given_up) == [("ping", "connection_failed"), ("webhook", "connection_failed")]


# once ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "closed", "code", "causes", "signals"),
    [
        ((), False, 1, ["failures", "untold"], ["start", "fail"]),
        ((), True, 0, [], ["success"]),
        (("--dry-run",), False, 0, [], []),
        (("--force", "--day", str(TODAY + timedelta(days=1))), False, 1, ["failures", "untold"], []),
    ],
)
async def test_once_is_told_as_a_run_is(
    args: Sequence[str], closed: bool, code: int, causes: list[str], signals: list[str], place: Place
):
    """But for a rehearsal; and the dead man's switch waits for today's run, or for a closed day."""
    rows = invent(3, staff=1, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, rejected=(f"o1s0@{DOMAIN}",), keep_eml=False))
    receivers = Receivers()
    async with receiving(receivers) as urls:
        place.configure(window={**OPEN, "closed_dates": [str(TODAY)] if closed else []}, watch=urls)
        done = await trio.to_thread.run_sync(
            partial(run, "once", "--json", *args, cwd=place.folder, code=code), abandon_on_cancel=True
        )
    assert receivers.causes == causes
    assert receivers.signals == signals
    assert SECRET not in done.out + done.err
