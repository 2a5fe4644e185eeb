"""A second mail provider, for what the first certainly did not accept while it is out."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from notifierd.config.providers import ResendSettings
from notifierd.model.delivery import Channel, State
from notifierd.model.outcome import Blame, Blocked, Deferred, Outcome, Rejected, Unknown
from notifierd.rules.breaker import OUT_FAILURES
from notifierd.run.day import run_day
from notifierd.run.record.recorder import GATHER
from notifierd.send._http import open_client
from notifierd.send.mail.resend import Resend
from tests.support.processes import Place, invent
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import (
    DOWN,
    NINE_O_CLOCK,
    TAKEN,
    ScriptedSender,
    ShakyLedger,
    Swallowed,
    Try,
    a_run,
    limited,
)

DAILY_QUOTA = Blocked("blocked:429:daily_quota_exceeded")


def pair(script: Callable[[Try], Outcome | Swallowed], *, keyed: bool = False) -> tuple[ScriptedSender, ScriptedSender]:
    """A first provider that follows *script*, and a second that takes everything."""
    first = ScriptedSender("first", max_batch=100, honours_keys=keyed, script=script)
    return first, ScriptedSender("second", max_batch=100)


async def run(ledger: ShakyLedger, *senders: Any, **changes: object) -> list[str]:
    """Run the day with *senders*, the preferred one first; the events of the log."""
    transports = [limited(sender, 5) for sender in senders]
    with capture_logs() as logs, trio.fail_after(86_400):
        await run_day(DAY, a_run(ledger, transports, **changes))  # type: ignore[arg-type]
    return [str(entry["event"]) for entry in logs]


async def test_who_the_first_provider_refuses_is_told_by_the_second(autojump_clock):
    """Five calls of 1 s are refused, and everything goes by the second within the 2.2 s that 20 calls of 5 take."""
    ledger = ShakyLedger(some_offices(20))
    first, second = pair(lambda _: DAILY_QUOTA)
    events = await run(ledger, first, second)
    assert ledger.states() == {State.SENT: 40}
    assert (len(first.calls), len(second.calls), len(set(second.told))) == (5, 20, 40)
    assert trio.current_time() < 1.0 + 20 / 5 + 10 * GATHER
    assert events.count("sender_blocked") == 1
    assert {row.delivery.provider for row in ledger.rows.values()} == {"second"}


BAD_KEY = b'{"statusCode": 400, "name": "validation_error", "message": "API key is invalid"}'
PAGE = b"<html>Your session has expired: log in to the network</html>"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, BAD_KEY) for status in (400, 401)),
        *((status, PAGE) for status in (302, 308, 400, 402, 404, 407, 421, 422, 503, 511)),
    ],
)
async def test_who_is_answered_anything_but_about_their_own_mail_is_told_by_the_second(
    status: int, body: bytes, autojump_clock
):
    """All day, to every call of the first, by itself or in its place; nobody fails, and the alarm rings."""

    async def answer(_request: httpx.Request) -> httpx.Response:
        await trio.sleep(0.1)
        return httpx.Response(status, content=body)

    ledger, second = ShakyLedger(some_offices(20)), ScriptedSender("second", max_batch=100)
    async with open_client(width=5, transport=httpx.MockTransport(answer)) as client:
        first = Resend(client, ResendSettings(api_key="re_1"), now=lambda: NINE_O_CLOCK)
        events = await run(ledger, first, second)
    assert ledger.states() == {State.SENT: 40}
    assert {row.delivery.provider for row in ledger.rows.values()} == {"second"}
    assert events.count("sender_blocked") + events.count("sender_out") == 1


async def test_a_provider_that_is_slow_to_open_is_waited_for(autojump_clock):
    """One 429 that asks for 3 s is a rate that was exceeded, not an outage: the second provider gets nothing."""
    slow = Deferred("rate_limited:429", retry_after=3.0, blame=Blame.PROVIDER)
    ledger = ShakyLedger(some_offices(20))
    first, second = pair(lambda seen: slow if seen.at < 2.0 else TAKEN)
    events = await run(ledger, first, second)
    assert ledger.states() == {State.SENT: 40}
    assert second.calls == []
    assert "sender_out" not in events


async def test_after_failures_in_a_row_the_first_is_out_and_when_it_is_back_it_is_used_again(autojump_clock):
    """Down for 30 s. 300 calls of 1 s, 5 at once, take 60 s: the second has those of the outage, the first the rest."""
    ledger = ShakyLedger(some_offices(300))
    first, second = pair(lambda seen: DOWN if seen.at < 30.0 else TAKEN)
    events = await run(ledger, first, second)
    assert ledger.states() == {State.SENT: 600}
    assert len(set(first.told) | set(second.told)) == len(first.told) + len(second.told) == 600
    assert len(first.told) > 200
    assert len(second.told) > 200
    assert (events.count("sender_out"), events.count("sender_back")) == (1, 1)
    failed = [call for call in first.calls if call.ended is not None and call.ended < 30.0]
    assert len({call.ended for call in failed}) >= OUT_FAILURES


async def test_what_the_first_perhaps_accepted_is_never_given_to_the_second(autojump_clock):
    """Ten answers are lost, then the first is blocked: its ten are doubtful, and wait for it; all others go round."""

    def script(seen: Try) -> Outcome | Swallowed:
        if seen.at < 2.0:
            return Swallowed()
        return TAKEN if seen.at > 100.0 else DAILY_QUOTA

    ledger = ShakyLedger(some_offices(20))
    first, second = pair(script)
    await run(ledger, first, second)
    assert ledger.states() == {State.SENT: 40}
    doubtful = {to for call in first.calls if call.began == 0.0 for to in call.to}
    assert len(doubtful) == 10
    assert not doubtful & set(second.told)
    assert len(second.told) == len(set(second.told)) == 30
    assert {row.delivery.doubts for row in ledger.rows.values() if row.delivery.provider == "first"} == {1}
    assert len(ledger.reads) < 100


async def test_a_call_in_doubt_is_repeated_under_its_key_by_the_first_alone(autojump_clock):
    ledger = ShakyLedger(some_offices(20))
    first, second = pair(lambda seen: Swallowed() if seen.at < 2.0 else DAILY_QUOTA, keyed=True)
    await run(ledger, first, second, window_left=600.0)
    assert len(set(first.told) | set(second.told)) == len(first.told) + len(second.told) == 40
    assert ledger.states() == {State.SENT: 40}, "a repeated key is answered as it was, whatever else is refused"


@pytest.mark.parametrize(
    "closing",
    [
        Blocked("quota:429", 3600.0),
        Deferred("rate_limited:420", retry_after=2400.0, blame=Blame.PROVIDER),
        Deferred("rate_limited:429", retry_after=3600.0, blame=Blame.PROVIDER),
    ],
)
async def test_calls_in_flight_that_pass_later_do_not_hide_that_the_first_is_closed(closing: Outcome, autojump_clock):
    """The first call is answered by a quota, the four beside it pass half a second later: the second has the rest."""
    ledger = ShakyLedger(some_offices(30, staff=1))
    first, second = pair(lambda seen: TAKEN if seen.to != closed else closing)
    closed = ledger.app.staff[0][1].email
    first.seconds = lambda to: 0.5 if to == closed else 1.0
    events = await run(ledger, first, second, window_left=600.0)
    assert ledger.states() == {State.SENT: 30}
    assert len(set(first.told) | set(second.told)) == len(first.told) + len(second.told) == 30
    assert len(second.told) >= 25
    assert events.count("sender_blocked") + events.count("sender_out") == 1


BARE = Rejected("rejected:400", Blame.UNCLEAR)


async def test_a_sender_that_rejects_everybody_in_words_that_name_nobody_is_blocked_and_fails_nobody(autojump_clock):
    """ "API key is invalid", as a 400 that reads as if the message were wrong: five offices, and the second has all."""
    ledger = ShakyLedger(some_offices(30))
    first, second = pair(lambda _: BARE)
    events = await run(ledger, first, second)
    assert ledger.states() == {State.SENT: 60}
    assert len(set(second.told)) == len(second.told) == 60
    assert events.count("sender_blocked") == 1


async def test_alone_a_sender_that_rejects_everybody_keeps_them_planned_until_it_is_mended(autojump_clock):
    ledger = ShakyLedger(some_offices(30))
    first, _ = pair(lambda seen: BARE if seen.at < 1200.0 else TAKEN)
    await run(ledger, first, window_left=3600.0)
    assert ledger.states() == {State.SENT: 60}


async def test_one_message_that_is_rejected_in_such_words_holds_up_nobody(autojump_clock):
    """The most urgent office's message is the odd one, and nothing has passed when it is tried."""
    ledger = ShakyLedger(some_offices(30, staff=1))
    odd = ledger.app.staff[0][1].email
    first, _ = pair(lambda seen: BARE if seen.to == odd else TAKEN)
    await run(ledger, first)
    assert ledger.states() == {State.SENT: 29, State.FAILED: 1}
    assert ledger.reasons()[State.FAILED, BARE.reason] == 1


async def test_one_message_that_a_firewall_answers_for_holds_up_nobody_for_long(autojump_clock):
    """A 403 for what one mail says closes the destination: the others try it before that mail does again."""
    ledger = ShakyLedger(some_offices(200, staff=1))
    odd = ledger.app.staff[0][1].email
    first, _ = pair(lambda seen: Blocked("blocked:403") if seen.to == odd else TAKEN)
    await run(ledger, first, window_left=1800.0)
    assert ledger.states() == {State.SENT: 199, State.EXPIRED: 1}
    assert max(call.ended or 0.0 for call in first.calls if odd not in call.to) < 300.0


SLOW = Deferred("rate_limited:429", retry_after=1.0, blame=Blame.PROVIDER)


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_second_provider_that_asks_for_a_moment_is_used_again_after_that_moment(keyed: bool, autojump_clock):
    """The first is out for the day; the second answers each tenth mail with 429, a second. 100 calls of 1 s."""
    ledger = ShakyLedger(some_offices(100, staff=1))
    first, second = pair(lambda _: Blocked("quota:429", 3600.0), keyed=keyed)
    second.script = lambda seen: SLOW if seen.nth == 1 and "0-" in seen.to else TAKEN
    await run(ledger, first, second, window_left=600.0)
    assert ledger.states() == {State.SENT: 100}
    assert max(call.ended or 0.0 for call in second.calls) < 60.0
    assert len(ledger.reads) < 100


@pytest.mark.parametrize("second_back", [100.0, 10_000.0])
async def test_with_both_out_everything_stays_planned_until_one_is_back(second_back: float, autojump_clock):
    ledger = ShakyLedger(some_offices(20))
    first, second = pair(lambda _: DOWN)
    second.script = lambda seen: TAKEN if seen.at > second_back else DOWN
    await run(ledger, first, second, window_left=900.0)
    assert ledger.states() == ({State.SENT: 40} if second_back < 900 else {State.EXPIRED: 40})
    assert len(first.calls) + len(second.calls) < 5 * 2 * 25, "each is left alone for growing pauses"


async def test_a_hanging_first_provider_costs_its_timeouts_and_not_the_day(autojump_clock):
    """After three failures of 30 s the rest goes by the second; what hung is doubtful, and tried by the first again."""
    ledger = ShakyLedger(some_offices(100))
    first, second = pair(lambda _: Unknown("never"))
    first.seconds = 10_000.0
    await run(ledger, first, second, window_left=3 * 3600.0)
    states = ledger.states()
    assert 0 < states[State.UNKNOWN] <= 2 * 5 * OUT_FAILURES
    assert states[State.SENT] == 200 - states[State.UNKNOWN]
    assert len(ledger.reads) < 500, "who waits for the first alone is looked at when that may be tried"
    assert len(second.told) == len(set(second.told)) == states[State.SENT]


async def test_pushes_have_no_fallback_and_need_none(autojump_clock):
    ledger = ShakyLedger(some_offices(5, devices=1))
    first, second = pair(lambda _: DAILY_QUOTA)
    push = ScriptedSender("webpush")
    await run(ledger, first, second, push=push)
    assert ledger.states(Channel.PUSH) == {State.SENT: 10}
    assert ledger.states(Channel.EMAIL) == {State.SENT: 10}


# A real process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["refuses", "is not there"])
def test_a_run_tells_everybody_though_its_provider_is_out(place: Place, answer: str):
    """Postmark is not there, or knows no such token; Resend takes over. 30 offices of two, and nobody twice."""
    rows = invent(30)
    place.load(rows)
    with refusing_server() if answer == "refuses" else closed_port() as port:
        place.configure(
            email={"provider": "postmark", "fallback": "resend", "sender": place.sender},
            **{"email.postmark": {"server_token": "pm_of_the_tests", "base_url": f"http://127.0.0.1:{port}"}},
        )
        done = place.once()
    assert done.report["email"] == {"planned": 60, "sent": 60, "failed": 0, "unknown": 0, "expired": 0, "open": 0}
    told = [mail.to[0] for mail in place.mails()]
    assert sorted(told) == sorted(member.email for member in rows.staff)
    assert place.sql("select distinct provider from notifierd.deliveries") == "resend"
    assert ("sender_blocked" if answer == "refuses" else "sender_out") in done.err


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections for the length of the block, as nobody listens on it and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def refusing_server() -> Iterator[int]:
    """A server that answers every call as Postmark does where the token is wrong."""
    with HTTPServer(("127.0.0.1", 0), _Refusing) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, poll_interval=0.05)
        try:
            yield server.server_port
        finally:
            server.shutdown()


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"ErrorCode": 10, "Message": "No Account or Server API tokens were supplied."}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
