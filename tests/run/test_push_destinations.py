"""Push services side by side, in virtual time: the real sender in a real run, over services that follow a script."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
import trio
from attrs import define, evolve, field
from structlog.testing import capture_logs

from notifierd.config.settings import LimitsSettings, PushSettings
from notifierd.model.delivery import State
from notifierd.run.context import Limits, RunContext
from notifierd.run.day import run_day
from notifierd.send._http import open_client
from notifierd.send.vapid import make_vapid_key
from notifierd.send.webpush import WebPush
from tests.support.memory import Application
from tests.support.messages import AUTH, Browser, base64url
from tests.support.samples import DAY
from tests.support.scripted_senders import (
    NINE_O_CLOCK,
    Member,
    ScriptedSender,
    ShakyLedger,
    a_member,
    a_run,
    limited,
    most_at_once,
)

FCM, MOZILLA, APPLE = "fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com"
KEYS = Browser().subscription("")
PRIVATE_KEY, _ = make_vapid_key()


@define
class Services:
    """Every push service there is: each call takes *seconds*, a refusal half as long, and ends as *script* says.

    Attributes:
        calls: host, path, beginning and end of each call.
    """

    seconds: float = 0.2
    script: Callable[[httpx.Request], int] = field(default=lambda _request: 201)
    calls: list[tuple[str, str, float, float]] = field(factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        began, status = trio.current_time(), self.script(request)
        await trio.sleep(self.seconds if status == 201 else self.seconds / 2)
        self.calls.append((request.url.host, request.url.path, began, trio.current_time()))
        return httpx.Response(status)

    def at_once(self, host: str = "") -> int:
        """How many calls there were at most at once, to one host or in all."""
        return most_at_once([(began, ended) for name, _, began, ended in self.calls if host in ("", name)])

    def began(self, host: str) -> list[float]:
        """When the calls to *host* began."""
        return sorted(began for name, _, began, _ in self.calls if name == host)


@asynccontextmanager
async def a_push_run(
    app: Application,
    services: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]],
    limits: LimitsSettings | None = None,
    window_left: float = 10_800.0,
) -> AsyncIterator[tuple[RunContext, ShakyLedger]]:
    """A run of *app* that pushes by the real sender; three hours are left of its window."""
    async with open_client(width=500, transport=httpx.MockTransport(services)) as client:
        sender = WebPush(
            client,
            PushSettings(vapid_private_key=PRIVATE_KEY),
            subject="mailto:ops@example.jp",
            now=lambda: NINE_O_CLOCK + timedelta(seconds=trio.current_time()),
        )
        ledger = ShakyLedger(app)
        context = a_run(ledger, ScriptedSender(seconds=0.2), limited(sender, 1), window_left=window_left)
        context.limit(Limits.of(limits or LimitsSettings()))
        yield context, ledger


def members(app: Application, number: int, *hosts: str) -> list[Member]:
    """*number* staff members of as many offices, in the order of their turns, each with a device at *hosts*."""
    added = [a_member(app, f"s{n}", hosts=hosts) for n in range(number)]
    for device in app.devices.values():
        app.devices[device.id] = evolve(device, p256dh=KEYS.p256dh, auth=base64url(AUTH))
    return added


def path(member: Member, device: int = 0) -> str:
    """Where at its push service a device is called."""
    return "/" + str(member.devices[device].id)


# A service's share ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("push", "share"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (20, 5), (100, 25)])
async def test_a_push_service_has_a_quarter_of_the_slots_and_one_at_least(push: int, share: int, autojump_clock):
    app, services = Application(), Services()
    members(app, 60, FCM, MOZILLA)
    async with a_push_run(app, services, LimitsSettings(offices=100, push=push)) as (context, ledger):
        await run_day(DAY, context)
    assert ledger.states() == {State.SENT: 180}
    assert (services.at_once(FCM), services.at_once(MOZILLA), services.at_once()) == (
        share,
        share,
        min(push, 2 * share),
    )


async def test_a_push_service_that_hangs_costs_the_others_nothing(autojump_clock):
    app = Application()
    members(app, 40, FCM, MOZILLA, APPLE)

    async def services(request: httpx.Request) -> httpx.Response:
        await trio.sleep(3_600.0 if request.url.host == FCM else 0.2)
        done[request.url.host].append(trio.current_time())
        return httpx.Response(201)

    done: dict[str, list[float]] = {MOZILLA: [], APPLE: []}
    async with a_push_run(app, services, LimitsSettings(offices=100, push=20), window_left=60.0) as (context, _):
        await run_day(DAY, context)
    for host in (MOZILLA, APPLE):
        assert done[host] == pytest.approx([0.2 * (1 + n // 5) for n in range(40)])


async def test_a_reload_moves_the_share_of_a_service_that_is_busy(autojump_clock):
    """Calls of 10 s, 5 at once; 10 from 5 s on, as 40 slots give 10; and from 12 s on a single one, as 4 give 1."""
    app, services = Application(), Services(seconds=10.0)
    members(app, 18, FCM)
    limits = LimitsSettings(offices=100, push=20)
    async with a_push_run(app, services, limits) as (context, ledger), trio.open_nursery() as nursery:
        nursery.start_soon(run_day, DAY, context)
        await trio.sleep_until(5.0)
        context.limit(Limits.of(evolve(limits, push=40)))
        await trio.sleep_until(12.0)
        context.limit(Limits.of(evolve(limits, push=4)))
    assert services.began(FCM) == [*[0.0] * 5, *[5.0] * 5, *[10.0] * 5, 20.0, 30.0, 40.0]
    assert ledger.states() == {State.SENT: 36}


# Refusals ------------------------------------------------------------------------------------------------------------


async def test_a_service_that_refuses_our_key_is_left_alone_and_no_other_is(autojump_clock):
    """For ten minutes; nobody is failed for it, no device is deleted, and one alarm goes out."""
    app = Application()
    everybody = members(app, 30, FCM, MOZILLA)
    services = Services(script=lambda r: 403 if r.url.host == FCM and trio.current_time() < 600 else 201)
    with capture_logs() as logs:
        async with a_push_run(app, services) as (context, ledger):
            await run_day(DAY, context)
    assert ledger.states() == {State.SENT: 90}
    assert len(app.devices) == 2 * len(everybody)
    assert max(services.began(MOZILLA)) < 5
    refused = [at for at in services.began(FCM) if at < 600]
    assert len(refused) <= 5 * 6  # pauses of 15, 30, 60 and so on
    alarms = [line for line in logs if line["event"] == "sender_blocked"]
    assert [(line["lane"], line["reason"]) for line in alarms] == [(f"https://{FCM}", "blocked:403")]


async def test_devices_that_were_subscribed_under_another_key_hold_up_no_other(autojump_clock):
    """Two in a hundred, as is usual: they fail after their attempts, and stay; all others are told as fast as ever."""
    app = Application()
    everybody = members(app, 300, FCM)
    foreign = {path(member) for member in everybody[57::50]}
    services = Services(script=lambda request: 403 if request.url.path in foreign else 201)
    with capture_logs() as logs:
        async with a_push_run(app, services) as (context, ledger):
            await run_day(DAY, context)
    assert ledger.reasons() == {(State.SENT, None): 595, (State.FAILED, "device_refused:403"): 5}
    tried = Counter(path for _, path, _, _ in services.calls)
    assert [tried[path] for path in foreign] == [3] * 5
    assert len(app.devices) == 300
    assert max(at for _, path, at, _ in services.calls if path not in foreign) < 1.1 * 300 * 0.2 / 5
    assert [line for line in logs if line["event"] == "sender_blocked"] == []


async def test_one_person_whose_devices_are_all_refused_holds_up_nobody(autojump_clock):
    """20 devices under another key, in the most urgent office, before anything has passed: the others are told soon."""
    app = Application()
    foreign = a_member(app, "foreign", hosts=[FCM] * 20, left=-30)
    refused = {path(foreign, number) for number in range(20)}
    members(app, 50, FCM)
    services = Services(script=lambda request: 403 if request.url.path in refused else 201)
    with capture_logs() as logs:
        async with a_push_run(app, services) as (context, ledger):
            await run_day(DAY, context)
    assert ledger.reasons() == {(State.SENT, None): 51 + 50, (State.FAILED, "device_refused:403"): 20}
    assert max(at for _, path, at, _ in services.calls if path not in refused) < 20.0
    assert [line for line in logs if line["event"] == "sender_blocked"] == []


async def test_a_key_that_is_refused_in_mid_run_fails_nobody(autojump_clock):
    """From 5 s to 600 s; the few that were taken for foreign devices have attempts left when all is well again."""
    app = Application()
    members(app, 300, FCM)
    services = Services(script=lambda _request: 401 if 5 <= trio.current_time() < 600 else 201)
    with capture_logs() as logs:
        async with a_push_run(app, services) as (context, ledger):
            await run_day(DAY, context)
    assert ledger.states() == {State.SENT: 600}
    assert sum(line["event"] == "sender_blocked" for line in logs) == 1
