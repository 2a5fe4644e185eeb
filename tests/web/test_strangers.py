"""What somebody without a token can do to the page of a real daemon: nothing that anybody else notices."""

import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.attacks import TOGETHER, attack, fuzzing
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.events import listening
from tests.support.faults import until
from tests.support.port_fuzz import fuzz
from tests.support.processes import Place, invent

TOKEN = "a-token-of-the-tests"
SOME = 4
"""Descriptors that a daemon may have open for a moment of its own accord."""

BEARER = {"authorization": f"Bearer {TOKEN}"}


def descriptors(service: Service) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


async def _ended_well(service: Service) -> None:
    service.tell(signal.SIGTERM)
    await service.ended(0)
    assert [line for line in service.lines if line.get("level") == "error"] == []


@pytest.mark.parametrize("names", TOGETHER, ids=" and ".join)
async def test_health_metrics_and_sessions_answer_whatever_strangers_do_and_the_run_ends(
    place: Place, names: Sequence[str]
):
    place.load(invent(20, day=TODAY))
    place.configure(window=AHEAD, http={"token": TOKEN})
    async with running_service(place) as service:
        await service.ready()
        await service.get("/readyz")
        quiet = descriptors(service) + SOME
        async with (
            httpx.AsyncClient(base_url=service.url, timeout=30.0) as person,
            attack(service.url, *names),
        ):
            assert (await person.post("/login", data={"token": TOKEN})).status_code == 303
            place.configure(window=OPEN, http={"token": TOKEN})
            service.tell(signal.SIGHUP)
            for _ in range(10):
                assert (await service.get("/healthz")).status_code == 200
                assert (await service.get("/readyz")).status_code == 200
                assert (await service.get("/metrics", **BEARER)).status_code == 200
                assert (await person.get("/")).status_code == 200
            await until(lambda: place.states() == {"sent": 40}, "the run's end")
        await until(lambda: descriptors(service) <= quiet, "the connections to be gone")
        await _ended_well(service)


async def test_a_page_is_no_mistake_of_ours_whatever_the_day(place: Place):
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await service.ready()
        days = ("0001-01-01", "9999-12-31", "0001-01-02", "9999-12-30", "0000-01-01", "10000-01-01", "2026-W53-7", "-1")
        for day in days:
            assert (await service.get(f"/days/{day}")).status_code == 404
            office = await service.get(f"/offices/00000000-0000-4000-8000-00000000feed?day={day}")
            assert office.status_code == 404
        assert (await service.get("/?reason=%00")).status_code == 200
        async with httpx.AsyncClient(base_url=service.url) as client:
            for origin in ("http://[", "http://]", "null", "//", "http://[::1"):
                assert (await client.post("/login", headers={"origin": origin})).status_code == 403
        await _ended_well(service)


async def test_a_log_out_ends_the_live_pages_of_its_session_and_no_other(place: Place):
    place.configure(window=AHEAD, http={"token": TOKEN})
    async with running_service(place) as service, AsyncExitStack() as stack:
        await service.ready()
        browsers = [await stack.enter_async_context(httpx.AsyncClient(base_url=service.url)) for _ in range(2)]
        pages = []
        for browser in browsers:
            await browser.post("/login", data={"token": TOKEN})
            cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
            pages.append(await stack.enter_async_context(listening(service.url, cookie=cookie)))
            await pages[-1].next()
        await browsers[0].post("/logout")
        assert await pages[0].to_the_end() == []
        place.load(invent(1, day=TODAY))
        place.configure(window=OPEN, http={"token": TOKEN})
        service.tell(signal.SIGHUP)
        assert (await pages[1].next())["headline"]
        await until(lambda: service.shows("sleeping until") and place.states() == {"sent": 2}, "the run's end")
        await _ended_well(service)


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_a_daemon_that_is_asked_nonsense_answers_no_500_and_logs_no_error(place: Place, token: str):
    """1,000 requests, with a real database behind the good ones."""
    place.load(invent(2, day=TODAY))
    place.configure(window=OPEN, http={"token": token})
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        quiet, statuses = descriptors(service) + SOME, Counter[bytes]()
        requests = fuzz(7, 1_000, [f"Authorization: Bearer {TOKEN}"])
        await fuzzing(service.url, requests, statuses)
        await until(lambda: descriptors(service) <= quiet, "the connections to be gone")
        assert b"500" not in statuses
        assert {b"200", b"400", b"404"} <= statuses.keys()
        await _ended_well(service)
