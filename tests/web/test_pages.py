"""The page, end to end: a real daemon on a real PostgreSQL, asked over HTTP."""

import json
import re
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from notifierd.demo.servers.trouble import MailConfig, Rule
from notifierd.model.feedback import MailStatus
from notifierd.web.live import MOST_STREAMS
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.events import listening
from tests.support.faults import until
from tests.support.processes import API_KEY, DOMAIN, PATIENCE, Place, an_id, invent

TOKEN = "a-token-of-the-tests"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """What a scrape has: by name, and the values of its labels."""
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def becomes(service: Service, path: str, what: Callable[[httpx.Response], bool]) -> httpx.Response:
    """Ask again and again, until the answer is *what* is waited for."""
    with trio.fail_after(PATIENCE):
        while True:
            if what(answer := await service.get(path)):
                return answer
            await trio.sleep(0.1)


# Health -------------------------------------------------------------------------------------------------------------


async def test_ready_is_said_as_long_as_a_run_could_begin(place: Place):
    place.configure(window=AHEAD, database={"dsn": "postgresql://somebody@/app?host=/no/such/folder"})
    async with running_service(place) as service:
        await until(lambda: service.shows("waiting for the database"), "the wait")
        assert (await service.get("/healthz")).text == "alive\n"
        early = await service.get("/readyz")
        assert (early.status_code, early.text[:46]) == (503, "waiting for the database (database_unavailable")
        place.configure(window=AHEAD)
        service.tell(signal.SIGHUP)
        await service.ready()
        up = await service.get("/readyz")
        assert (up.status_code, up.text) == (200, "ready\n")

        place.sql(f"alter role {place.role} nologin")
        down = await becomes(service, "/readyz", lambda page: page.status_code != 200)
        assert (down.status_code, down.text) == (503, "database_unavailable:28000\n")
        assert (await service.get("/healthz")).status_code == 200
        page = await service.get("/", accept_language="en")
        assert page.status_code == 200
        assert "database_unavailable:28000" in page.text
        assert samples((await service.get("/metrics")).text)["notifierd_ledger_readable",] == 0
        place.sql(f"alter role {place.role} login")
        await becomes(service, "/readyz", lambda page: page.status_code == 200)
        service.tell(signal.SIGTERM)
        await service.ended(0)


async def test_a_daemon_that_drains_is_alive_and_not_ready_and_ends_its_streams_at_once(place: Place):
    """A call that is never answered, and ten minutes of grace."""
    place.load(invent(1, staff=1, day=TODAY))
    place.serve(invent(1, staff=1, day=TODAY), MailConfig(API_KEY, rules=(Rule(then="hang"),), keep_eml=False))
    place.configure(window=OPEN, limits={"send_timeout": 600.0, "shutdown_grace": 600.0})
    async with running_service(place) as service:
        await until(lambda: place.states() == {"sending": 1}, "a call in flight")
        async with listening(service.url) as page:
            assert (await page.next())["headline"].startswith("Running ")
            service.tell(signal.SIGINT)
            *_, last = await page.to_the_end()
            assert last["headline"].startswith("Stopping the run of ")
        assert (await service.get("/healthz")).status_code == 200
        assert (await service.get("/readyz")).text == "stopping\n"
        assert (await service.get("/events")).status_code == 503
        assert (await service.get("/")).status_code == 200
        service.tell(signal.SIGINT)
        await service.ended(4)


# Metrics ------------------------------------------------------------------------------------------------------------


async def test_the_counters_agree_with_the_ledger_after_a_run_with_faults(place: Place):
    """Twelve offices with a mail and a push each: an address is refused, a mail deferred once, an office poisoned."""
    rows = invent(12, staff=1, push_url=place.servers.push_url, day=TODAY)
    place.load(rows)
    once = Rule(to=f"o2s0@{DOMAIN}", status=500, times=1)
    place.serve(rows, MailConfig(API_KEY, rejected=(f"o1s0@{DOMAIN}",), rules=(once,), keep_eml=False))
    templates = place.folder / "templates"
    templates.mkdir()
    (templates / "mail.ja.subject.txt").write_text('{% if "o3" in office %}{{ {}[office] }}{% endif %}due')
    place.configure(window=OPEN, content={"templates": str(templates)}, limits={"email": 3})
    async with running_service(place) as service:
        with place.frozen_servers():
            await until(lambda: place.calls_in_flight() == 3, "calls in flight")
            during = samples((await service.get("/metrics")).text)
        await until(lambda: service.shows("sleeping until"), "the run's end")
        answer = await service.get("/metrics")
        service.tell(signal.SIGTERM)
        await service.ended(0)

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert during["notifierd_run_in_progress",] == 1
    assert (
        during["notifierd_limiter_borrowed_tokens", "email"] == during["notifierd_limiter_total_tokens", "email"] == 3
    )
    assert during["notifierd_runs_total", "completed"] == 0

    after = samples(answer.text)
    ledger = place.sql("select channel, state, count(*) from notifierd.deliveries group by 1, 2").splitlines()
    settled = {(channel, state): int(n) for channel, state, n in (line.split("|") for line in ledger)}
    assert {key[1:]: n for key, n in after.items() if key[0] == "notifierd_deliveries_total" and n} == settled
    assert settled == {
        ("email", "sent"): 10,
        ("email", "failed"): 2,
        ("push", "sent"): 11,
        ("push", "failed"): 1,
    }
    assert after["notifierd_call_duration_seconds_count", "resend"] == 11 + 1
    assert after["notifierd_calls_in_trouble_total", "resend"] == 1
    assert after["notifierd_call_duration_seconds_count", "webpush"] == 11
    assert after["notifierd_calls_in_trouble_total", "webpush"] == 0
    assert after["notifierd_run_in_progress",] == after["notifierd_limiter_borrowed_tokens", "email"] == 0
    assert after["notifierd_runs_total", "completed"] == after["notifierd_run_duration_seconds_count",] == 1
    ended = place.sql("select extract(epoch from finished_at) from notifierd.runs")
    assert after["notifierd_last_completed_run_timestamp_seconds",] == pytest.approx(float(ended), abs=0.001)
    untold = json.loads(place.sql("select untold from notifierd.runs"))
    assert [one["office_id"] for one in untold] == [str(an_id("o3"))]
    assert after["notifierd_untold_alerts", "true"] == untold[0]["overdue"]
    assert after["notifierd_untold_alerts", "false"] == untold[0]["alerts"] - untold[0]["overdue"]
    assert after["notifierd_untold_offices",] == 1
    assert {key[1]: n for key, n in after.items() if key[0] == "notifierd_last_run_state"} == {
        "running": 0,
        "completed": 1,
        "interrupted": 0,
        "missed": 0,
    }
    assert after["notifierd_config_last_reload_successful",] == after["notifierd_ready",] == 1


async def test_a_scrape_is_no_longer_after_many_offices_and_push_services(place: Place):
    """No label has a value of the data's."""
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await service.ready()
        before = set(samples((await service.get("/metrics")).text))
        rows = invent(40, staff=2, push_url=place.servers.push_url, day=TODAY)
        place.load(rows)
        place.configure(window=OPEN)
        service.tell(signal.SIGHUP)
        await until(lambda: place.states() == {"sent": 160}, "the run's end")
        after = set(samples((await service.get("/metrics")).text))
        service.tell(signal.SIGTERM)
        await service.ended(0)
    names = {
        "notifierd_last_run_state",
        "notifierd_call_duration_seconds",
        "notifierd_calls_in_trouble",
        "notifierd_untold",
        "notifierd_last_comp",
        "notifierd_feedback_mails",
    }
    assert {key for key in after - before if not key[0].startswith(tuple(names))} == set()
    assert {key[1] for key in after if key[0] == "notifierd_call_duration_seconds_count"} == {"resend", "webpush"}
    became = {key[1:] for key in after if key[0] == "notifierd_feedback_mails"}
    assert became == {("resend", status) for status in (*MailStatus, "not_known")}


# Pages --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["ja", "en"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_every_page_answers_in_the_readers_language_with_offices_and_no_persons(place: Place, language: str):
    rows = invent(4, staff=2, push_url=place.servers.push_url, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, rejected=(f"o1s0@{DOMAIN}",), keep_eml=False))
    place.configure(window=OPEN)
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        ask = partial(service.get, accept_language=f"{language};q=0.9, fr;q=1.0")
        paths = ["/", f"/days/{TODAY}", f"/offices/{an_id('o1')}", "/?reason=rejected%3Aitem", "/?channel=pigeon"]
        pages = {path: await ask(path) for path in paths}
        missing = [
            await ask(path) for path in ("/nothing", "/days/1999-01-01", "/days/today", f"/offices/{an_id('x')}")
        ]
        asset, *_ = re.findall(r'href="(/static/page\.css\?v=[0-9a-f]+)"', pages["/"].text)
        style, unmarked, mistaken = [await ask(path) for path in (asset, asset.partition("?")[0], asset[:-1])]
        async with httpx.AsyncClient() as client:
            posted = await client.post(service.url)
        service.tell(signal.SIGTERM)
        await service.ended(0)

    for page in pages.values():
        assert page.status_code == 200
        assert page.text.startswith(f'<!doctype html>\n<html lang="{language}">')
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "camera=(), " in page.headers["permissions-policy"]
        for body in re.findall(r"<tbody>(.*?)</tbody>", page.text, re.DOTALL):
            assert body.count("<tr") == body.count('<th scope="row">') > 0
        assert not re.search(r"<(script|style)(?![^>]* src=)[^>]*>|\son\w+=|\sstyle=|https?://|//", page.text)
        assert "事業所 o1" in page.text
        assert not re.search(r"\bo\d[rs]\d|@|token-", page.text)
        assert str(an_id("o1s0")) in page.text
        assert "rejected:item" in page.text
    assert [page.status_code for page in missing] == [404] * 4
    assert style.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert {one.headers["cache-control"] for one in (unmarked, mistaken)} == {"no-cache"}
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


async def test_the_failures_are_narrowed_by_the_query(place: Place):
    """Refused: a mail of each of two offices. Poisoned: the two mails of another."""
    rows = invent(4, staff=2, day=TODAY)
    place.load(rows)
    refused = (f"o1s0@{DOMAIN}", f"o2s0@{DOMAIN}")
    place.serve(rows, MailConfig(API_KEY, rejected=refused, keep_eml=False))
    templates = place.folder / "templates"
    templates.mkdir()
    (templates / "mail.ja.subject.txt").write_text('{% if "o3" in office %}{{ {}[office] }}{% endif %}due')
    place.configure(window=OPEN, content={"templates": str(templates)})
    lost = {name: str(an_id(name)) for name in ("o1s0", "o2s0", "o3s0", "o3s1")}

    async def listed(service: Service, query: str) -> set[str]:
        day, overview = [(await service.get(path + query)).text for path in (f"/days/{TODAY}", "/")]
        names = {name for name, key in lost.items() if key in day}
        assert names == {name for name, key in lost.items() if key in overview}
        return names

    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        assert await listed(service, "") == lost.keys()
        assert await listed(service, "?reason=rejected:item") == {"o1s0", "o2s0"}
        assert await listed(service, f"?office={an_id('o1')}") == {"o1s0"}
        assert await listed(service, f"?office={an_id('o1')}&reason=office_error:UndefinedError") == set()
        assert await listed(service, "?channel=push") == set()
        assert await listed(service, "?state=failed&channel=email") == lost.keys()
        service.tell(signal.SIGTERM)
        await service.ended(0)


async def test_what_another_program_wrote_into_names_and_reasons_is_text_and_nothing_else(place: Place):
    rows = invent(1, staff=1, day=TODAY)
    place.load(rows)
    place.sql("update offices set name = '<script>alert(1)</script>\u202egnp.exe'")
    place.serve(rows, MailConfig(API_KEY, rejected=(f"o0s0@{DOMAIN}",), keep_eml=False))
    place.configure(window=OPEN)
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        pages = [await service.get(path) for path in ("/", f"/days/{TODAY}", f"/offices/{an_id('o0')}")]
        odd = await service.get('/?reason="><script>alert(2)</script>')
        service.tell(signal.SIGTERM)
        await service.ended(0)
    for page in (*pages, odd):
        assert page.status_code == 200
        assert "<script>" not in page.text
        assert "\u202e" not in page.text
    assert all("&lt;script&gt;alert(1)&lt;/script&gt;gnp.exe" in page.text for page in pages)


# Who may look -------------------------------------------------------------------------------------------------------


async def test_a_person_logs_in_looks_and_logs_out_and_a_program_brings_the_token(place: Place):
    place.configure(window=AHEAD, http={"token": TOKEN})
    async with running_service(place) as service:
        await service.ready()
        async with httpx.AsyncClient(base_url=service.url, headers={"accept-language": "en"}) as browser:
            asked = await browser.get(f"/days/{TODAY}")
            assert (asked.status_code, 'name="token"' in asked.text) == (401, True)
            assert f'name="to" value="/days/{TODAY}"' in asked.text
            assert (await browser.get("/events")).status_code == (await browser.get("/metrics")).status_code == 401
            assert (await browser.get("/static/page.css")).status_code == 200
            assert (await browser.get("/healthz")).status_code == (await browser.get("/readyz")).status_code == 200

            wrong = await browser.post("/login", data={"token": "guess", "to": "/"})
            assert (wrong.status_code, "The token is wrong." in wrong.text) == (403, True)
            form = {"token": TOKEN, "to": f"/days/{TODAY}"}
            foreign = await browser.post("/login", data=form, headers={"sec-fetch-site": "cross-site"})
            assert (foreign.status_code, dict(browser.cookies)) == (403, {})
            right = await browser.post("/login", data=form)
            assert (right.status_code, right.headers["location"]) == (303, f"/days/{TODAY}")
            assert "HttpOnly; SameSite=Strict" in right.headers["set-cookie"]
            assert (await browser.get("/")).status_code == (await browser.get("/metrics")).status_code == 200

            out = await browser.post("/logout")
            assert (out.status_code, out.headers["location"]) == (303, "/")
            assert (await browser.get("/")).status_code == 401
        assert (await service.get("/metrics", authorization=f"Bearer {TOKEN}")).status_code == 200
        assert (await service.get("/", authorization=f"Bearer {TOKEN}x")).status_code == 401
        assert (await service.get(f"/?token={TOKEN}")).status_code == 401
        service.tell(signal.SIGTERM)
        lines = await service.ended(0)
    assert TOKEN not in "".join(lines)
    assert service.count("logged_in") == 1
    (refused,) = (line for line in service.lines if line["event"] == "token_refused")
    assert refused["times"] == 1


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/days/../../x", "/\r\nX: y"]
)
async def test_a_log_in_leads_to_no_other_place(to: str, place: Place):
    place.configure(window=AHEAD, http={"token": TOKEN})
    async with running_service(place) as service:
        await service.ready()
        async with httpx.AsyncClient() as browser:
            answer = await browser.post(f"{service.url}/login", data={"token": TOKEN, "to": to})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        service.tell(signal.SIGTERM)
        await service.ended(0)


async def test_another_name_than_ours_is_told_nothing_but_health(place: Place):
    place.configure(window=AHEAD, http={"hosts": ["ops.example.jp"]})
    async with running_service(place) as service:
        await service.ready()
        for path in ("/", "/metrics", "/events", "/static/page.css", "/login"):
            assert (await service.get(path, host="evil.example")).status_code == 421
        assert (await service.get("/healthz", host="evil.example")).status_code == 200
        assert (await service.get("/", host="ops.example.jp")).status_code == 200
        service.tell(signal.SIGTERM)
        await service.ended(0)


# Whatever becomes of it ---------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_costs_the_page_and_no_run_and_is_tried_again(place: Place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        place.load(invent(2, day=TODAY))
        place.configure(window=OPEN, http={"bind": bind})
        async with running_service(place) as service:
            await until(lambda: service.shows("sleeping until"), "the run's end")
            assert service.shows(f"; no page at {bind} (EADDRINUSE)")
            assert place.states() == {"sent": 4}
            taken.close()
            assert (await service.get("/healthz")).status_code == 200
            await until(lambda: not service.shows("no page"), "the status")
            service.tell(signal.SIGTERM)
            await service.ended(0)
    assert service.count("page_not_served") == 1


async def test_a_reload_moves_the_page_and_ends_the_sessions_of_another_token(place: Place):
    place.configure(window=AHEAD, http={"token": TOKEN})
    async with running_service(place) as service:
        await service.ready()
        first = service.url
        async with httpx.AsyncClient() as browser:
            await browser.post(f"{first}/login", data={"token": TOKEN})
            bind = first.removeprefix("http://")
            place.configure(window=AHEAD, http={"token": f"{TOKEN}-2", "bind": bind})
            service.tell(signal.SIGHUP)
            await until(lambda: service.count("listening") == 2, "the page to be back")
            assert service.url == first
            assert (await browser.get(first)).status_code == 401
        assert (await service.get("/", authorization=f"Bearer {TOKEN}-2")).status_code == 200

        place.configure(window=AHEAD, http={"enabled": False})
        service.tell(signal.SIGHUP)
        await until(lambda: service.count("reloaded") == 2, "the reload")
        with pytest.raises(httpx.ConnectError):
            await service.get("/healthz")
        place.configure(window=AHEAD)
        service.tell(signal.SIGHUP)
        await until(lambda: service.count("listening") == 3, "the page to be back")
        assert (await service.get("/")).status_code == 200
        service.tell(signal.SIGTERM)
        await service.ended(0)


async def test_an_open_page_is_told_what_goes_on_from_the_first_office_to_the_last(place: Place):
    rows = invent(8, staff=1, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, latency_ms=400.0, rejected=(f"o1s0@{DOMAIN}",), keep_eml=False))
    place.configure(window=AHEAD, limits={"email": 1})
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping"), "the daemon to be up")
        async with listening(service.url) as page:
            seen = [await page.next()]
            place.configure(window=OPEN, limits={"email": 1})
            with place.frozen_servers():
                service.tell(signal.SIGHUP)
                while not (event := await page.next())["bars"]:
                    pass
            seen.append(event)
            while (event := await page.next())["busy"]:
                seen.append(event)
            seen.append(event)
        service.tell(signal.SIGTERM)
        await service.ended(0)
    assert seen[0]["headline"] == seen[-1]["headline"] == "Waiting for the next window"
    offices = [bar["done"] for event in seen for bar in event["bars"] if bar["key"] == "offices"]
    assert offices == sorted(offices)
    assert (min(offices), offices[-1]) == (0, max(offices))
    assert max(offices) >= 6
    mails = [bar for event in seen for bar in event["bars"] if bar["key"] == "mails"]
    assert {bar["total"] for bar in mails} == {8}
    assert any(bar["note"] == "1 failed" for bar in mails)
    facts = [dict(event["facts"]) for event in seen if event["bars"]]
    assert any("事業所 o" in one["in_flight"] for one in facts)
    assert any(re.fullmatch(r"\d\.\d a second", one["rate"]) for one in facts)
    assert seen[-1]["stamp"] != seen[0]["stamp"]


async def test_no_more_live_pages_than_there_may_be(place: Place):
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await service.ready()
        async with AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(listening(service.url)) for _ in range(MOST_STREAMS)]
            for page in pages:
                await page.next()
            assert samples((await service.get("/metrics")).text)["notifierd_live_pages",] == MOST_STREAMS
            refused = await service.get("/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
            assert (await service.get("/")).status_code == 200
        await becomes(service, "/metrics", lambda page: samples(page.text)["notifierd_live_pages",] == 0)
        service.tell(signal.SIGTERM)
        await service.ended(0)
