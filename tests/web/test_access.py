"""Who may look at the page: names, tokens, sessions."""

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs

from notifierd.config.settings import HttpSettings
from notifierd.web.access import (
    MOST_PAUSING,
    MOST_SESSIONS,
    SESSION_SECONDS,
    TOLD_EVERY,
    WRONG_TOKEN_PAUSE,
    Access,
    is_ours,
)
from notifierd.web.server.http import Request

TOKEN = "a-token-of-the-tests"
LOCKED = HttpSettings(bind="ops1.example.jp:9464", token=TOKEN, hosts=("ops.example.jp",))


def asking(**headers: str) -> Request:
    return Request("GET", "/", headers={name.replace("_", "-"): value for name, value in headers.items()})


def posting(token: str, **headers: str) -> Request:
    return evolve(asking(**headers), method="POST", path="/login", body=f"token={token}".encode())


def with_cookie(cookie: str) -> Request:
    """A request with what a Set-Cookie header set, beside cookies of others."""
    return asking(cookie=f"odd{{=1; {cookie.partition(';')[0]}; theme=dark")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:9464", "LOCALHOST.", "app.localhost:80", "127.0.0.1:9464", "[::1]:9464", "[::1]"),
        *("192.0.2.7", "[2001:db8::7]:9464", "ops1.example.jp:9464", "ops.example.jp", "Ops.Example.JP.:443"),
    ],
)
def test_an_address_and_the_names_that_are_ours_may_be_asked_for(host: str):
    assert Access(LOCKED).knows_host(asking(host=host))


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:9464", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example"),
        *("ops.example.jp.evil.example", "me@localhost", "localhost/", "[::1", "::1", "[localhost]", "local host"),
        *("127.1", "0x7f000001", "localhost:port", "localhost, evil.example"),
    ],
)
def test_no_other_name_may(host: str):
    """A page of theirs whose name leads here, by DNS rebinding, gets nothing."""
    assert not Access(LOCKED).knows_host(asking(host=host))


async def test_without_a_token_everybody_is_let_in_who_gets_here():
    access = Access(HttpSettings())
    assert await access.admits(asking())
    assert await access.admits(asking(authorization="Bearer whatever"))


async def test_programs_bring_the_token(autojump_clock):
    access = Access(LOCKED)
    assert await access.admits(asking(authorization=f"Bearer {TOKEN}"))
    assert await access.admits(asking(authorization=f"bearer  {TOKEN} "))
    for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xff"):
        assert not await access.admits(asking(authorization=wrong))


async def test_a_session_is_opened_by_the_token_and_holds_none_of_it(autojump_clock):
    access = Access(LOCKED)
    cookie = await access.log_in(posting(TOKEN))
    assert cookie is not None
    assert TOKEN not in cookie
    assert cookie.endswith("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict")
    assert await access.admits(with_cookie(cookie))
    assert not await access.admits(with_cookie(cookie.replace("=", "=x", 1)))
    assert not await Access(LOCKED).admits(with_cookie(cookie))
    assert cookie != await access.log_in(posting(TOKEN))


@pytest.mark.parametrize("given", ["", "a", f"{TOKEN}x", "%FF%00", "%2Ftoken"])
async def test_no_session_is_opened_by_another_one(given: str, autojump_clock):
    assert await Access(LOCKED).log_in(posting(given)) is None


async def test_a_session_ends_when_it_is_ended_and_after_a_week(autojump_clock):
    access = Access(LOCKED)
    first, second = await access.log_in(posting(TOKEN)), await access.log_in(posting(TOKEN))
    assert first is not None
    assert second is not None
    assert access.log_out(with_cookie(first)).startswith("notifierd=; Path=/; Max-Age=0;")
    assert not await access.admits(with_cookie(first))
    assert await access.admits(with_cookie(second))
    await trio.sleep(SESSION_SECONDS)
    assert not await access.admits(with_cookie(second))


async def test_of_too_many_sessions_the_oldest_ends(autojump_clock):
    access = Access(LOCKED)
    cookies = [await access.log_in(posting(TOKEN)) or "" for _ in range(MOST_SESSIONS + 1)]
    assert [await access.admits(with_cookie(cookie)) for cookie in (*cookies[:2], cookies[-1])] == [False, True, True]


async def test_wrong_tokens_cost_half_a_second_each_one_after_the_other_and_the_right_one_nothing(autojump_clock):
    """A hundred at once: of those that there is no room for, each is refused at once."""
    access, refused = Access(LOCKED), []

    async def guess(n: int) -> None:
        if n % 2:
            assert not await access.admits(asking(authorization=f"Bearer guess-{n}"))
        else:
            assert await access.log_in(posting(f"guess-{n}")) is None
        refused.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(guess, n)
        await trio.testing.wait_all_tasks_blocked()
        assert await access.admits(asking(authorization=f"Bearer {TOKEN}"))
        assert await access.log_in(posting(TOKEN))
        assert trio.current_time() == 0.0
    paused = [WRONG_TOKEN_PAUSE * n for n in range(1, MOST_PAUSING + 2)]
    assert refused == pytest.approx([0.0] * (100 - len(paused)) + paused)


async def test_wrong_tokens_are_told_of_once_in_a_while_with_their_number(autojump_clock):
    access = Access(LOCKED)
    with capture_logs() as logs:
        for at in (0, 10, 20, TOLD_EVERY + 10, TOLD_EVERY + 20):
            await trio.sleep(at - trio.current_time())
            await access.admits(asking(authorization=f"Bearer guess-{at}"))
    assert [(line["event"], line["times"]) for line in logs] == [("token_refused", 1), ("token_refused", 3)]
    assert "guess" not in str(logs)


async def test_what_a_session_was_admitted_for_lasts_as_long_as_the_session(autojump_clock):
    access = Access(LOCKED)
    first, second = [await access.log_in(posting(TOKEN)) or "" for _ in range(2)]
    lasting = [access.lasting(with_cookie(cookie)) for cookie in (first, second)]
    assert [one() for one in lasting] == [True, True]
    access.log_out(with_cookie(first))
    assert [one() for one in lasting] == [False, True]
    await trio.sleep(SESSION_SECONDS)
    assert [one() for one in lasting] == [False, False]
    assert access.lasting(asking(authorization=f"Bearer {TOKEN}"))()
    assert Access(HttpSettings()).lasting(asking())()


@pytest.mark.parametrize(("origin", "secure"), [("https://ops.example.jp", True), ("http://localhost:9464", False)])
async def test_a_cookie_is_secure_where_the_browser_came_by_https(origin: str, secure: bool):
    cookie = await Access(LOCKED).log_in(posting(TOKEN, origin=origin))
    assert (cookie or "").endswith("; Secure") == secure


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"sec_fetch_site": "same-origin", "origin": "https://ops.example.jp", "host": "127.0.0.1:9464"}, True),
        ({"sec_fetch_site": "cross-site", "origin": "http://localhost", "host": "localhost"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"origin": "http://192.0.2.7:9464", "host": "192.0.2.7:9464"}, True),
        ({"origin": "http://evil.example", "host": "192.0.2.7:9464"}, False),
        ({"origin": "null", "host": "192.0.2.7:9464"}, False),
        ({"origin": "http://[", "host": "192.0.2.7:9464"}, False),
        ({"origin": "192.0.2.7:9464", "host": "192.0.2.7:9464"}, False),
        ({"host": "192.0.2.7:9464"}, True),
    ],
)
def test_a_form_is_ours_if_the_browser_says_so(headers: dict[str, str], ours: bool):
    """A proxy may change the Host header; a program sends no Origin."""
    assert is_ours(asking(**headers)) == ours
