"""The guard for endpoints in the process: what it looks up, and where it lets anything connect to.

Every socket that Trio is asked for is one of the test's, so that no connection can go unseen, wherever it leads.
tests/system/test_endpoints.py has the whole program, and real sockets.
"""

import re
import socket
import unicodedata
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import trio
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from notifierd.config.settings import PushSettings, Settings
from notifierd.model.outcome import Blame, Deferred, Outcome, Rejected
from notifierd.send._http import Client
from notifierd.send.open import open_push
from notifierd.send.route.exchange import Exchange
from notifierd.send.vapid import make_vapid_key
from notifierd.send.webpush import WebPush
from tests.support.hostile import INSIDE, PRIVATE_HOSTS, REFUSED
from tests.support.messages import Browser, push

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
PRIVATE_KEY, _ = make_vapid_key()
SETTINGS = PushSettings(vapid_private_key=PRIVATE_KEY)
KEY = ec.generate_private_key(ec.SECP256R1())
PRIVATE_ADDRESS = Deferred("endpoint_refused:private_address", blame=Blame.MESSAGE)
NO_CONNECTION = Deferred("connection_failed", blame=Blame.PROVIDER)
PUBLIC, OTHER_PUBLIC = "17.0.0.1", "2620:149::1"


class Names(trio.abc.HostnameResolver):
    """A resolver: each name has its answers, one for each time it is asked for; the last one stays."""

    def __init__(self, answers: dict[str, list[tuple[str, ...]]]) -> None:
        self.answers = answers
        self.asked: Counter[str] = Counter()

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        name = host.decode()
        answers = self.answers.get(name, [])
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        addresses = answers[min(self.asked[name], len(answers) - 1)]
        self.asked[name] += 1
        families = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in addresses]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in families]

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


class Nowhere(trio.socket.SocketType):
    """A socket that notes where it is connected to, and gets nowhere."""

    def __init__(self, connects: list[tuple[str, int]]) -> None:
        self.connects = connects

    async def connect(self, address: Any) -> None:
        self.connects.append(address[:2])
        raise ConnectionRefusedError

    def close(self) -> None:
        pass


class Sockets(trio.abc.SocketFactory):
    """Where all of Trio's sockets come from."""

    def __init__(self) -> None:
        self.made = 0
        self.connects: list[tuple[str, int]] = []

    def socket(self, family: Any = None, type: Any = None, proto: Any = None) -> trio.socket.SocketType:  # noqa: A002 - Trio's signature
        self.made += 1
        return Nowhere(self.connects)


async def call(
    endpoint: str, answers: dict[str, list[tuple[str, ...]]], *allowed_hosts: str, times: int = 1
) -> tuple[list[Outcome], Sockets, Names]:
    """Push to *endpoint* with the sender as the daemon opens it."""
    sockets, names = Sockets(), Names(answers)
    trio.socket.set_custom_socket_factory(sockets)
    trio.socket.set_custom_hostname_resolver(names)
    tables = Settings(push=evolve(SETTINGS, allowed_hosts=allowed_hosts or SETTINGS.allowed_hosts))
    message = push(Browser().subscription(endpoint))
    async with open_push(tables, now=lambda: NOW) as sender:
        outcomes = [outcome for _ in range(times) for outcome in await sender.send([message], message.payload, "")]
    return outcomes, sockets, names


@pytest.mark.parametrize(("endpoint", "why"), REFUSED.items())
async def test_an_endpoint_that_is_none_is_neither_looked_up_nor_connected_to(endpoint: str, why: str) -> None:
    outcomes, sockets, names = await call(endpoint, {})
    assert outcomes == [Rejected(f"endpoint_refused:{why}")]
    assert (sockets.made, names.asked) == (0, {})


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_a_private_address_is_not_connected_to_even_where_its_host_is_allowed(host: str) -> None:
    """Were the list of hosts no help, the addresses themselves are looked at."""
    outcomes, sockets, names = await call(f"https://{host}/x", {}, host.lower())
    assert outcomes == [PRIVATE_ADDRESS]
    assert (sockets.made, names.asked) == (0, {})


@pytest.mark.parametrize(("name", "addresses"), INSIDE.items())
async def test_a_name_that_leads_inside_is_not_connected_to(name: str, addresses: tuple[str, ...]) -> None:
    outcomes, sockets, names = await call(f"https://{name}/x", {name: [addresses]})
    assert outcomes == [PRIVATE_ADDRESS]
    assert (sockets.made, names.asked) == (0, {name: 1})


@pytest.mark.parametrize("endpoint", ["https://web.push.apple.com/x", "https://WEB.push.apple.com:443/x"])
async def test_a_public_address_is_connected_to(endpoint: str) -> None:
    """So that what the others do not do is no accident of these tests."""
    outcomes, sockets, _ = await call(endpoint, {"web.push.apple.com": [(PUBLIC, OTHER_PUBLIC)]})
    assert outcomes == [NO_CONNECTION]
    assert sockets.connects == [(PUBLIC, 443), (OTHER_PUBLIC, 443)]


@pytest.mark.parametrize("inside", ["127.0.0.1", "::1", "169.254.169.254"])
async def test_a_name_that_changes_its_mind_is_asked_once_for_each_connection(inside: str) -> None:
    """DNS rebinding: what was checked is connected to, whatever the name would say a second time."""
    name = "rebinding.push.apple.com"
    outcomes, sockets, names = await call(f"https://{name}/x", {name: [(PUBLIC,), (inside,)]}, times=3)
    assert outcomes == [NO_CONNECTION, PRIVATE_ADDRESS, PRIVATE_ADDRESS]
    assert sockets.connects == [(PUBLIC, 443)]
    assert names.asked == {name: 3}


@pytest.mark.parametrize("allowed", ["*.push.apple.com", "push.apple.com"])
@pytest.mark.parametrize(
    ("host", "exactly", "below"),
    [
        ("push.apple.com", True, False),
        ("web.push.apple.com", False, True),
        ("a.b.push.apple.com", False, True),
        ("PUSH.apple.com", True, False),
        ("Web.Push.Apple.Com", False, True),
        ("evilpush.apple.com", False, False),
        ("push.apple.com.evil.example", False, False),
        ("web.push.apple.com.evil.example", False, False),
        ("apple.com", False, False),
        ("push.apple.co", False, False),
        ("web.push-apple.com", False, False),
        ("web.pushXapple.com", False, False),
        ("web.push.apple.com.", False, False),
    ],
)
async def test_a_pattern_means_what_it_says(allowed: str, host: str, exactly: bool, below: bool) -> None:
    outcomes, sockets, _ = await call(f"https://{host}/x", {host.lower(): [(PUBLIC,)]}, allowed)
    matches = below if allowed.startswith("*.") else exactly
    assert outcomes == [NO_CONNECTION if matches else Rejected("endpoint_refused:host_not_allowed")]
    assert sockets.made == matches


PIECES = st.sampled_from(
    [
        *("https", "http", ":", "/", "//", "\\", "@", "#", "?", ";", ".", "..", "%", "%2e", "%2f", "%40", "%00", "&"),
        *(" ", "\t", "\n", "\r", "\x00", "\x7f", "\xa0", "\u00ad", "\u200b", "\u2028"),
        *(
            "\u3002",
            "\uff0f",
            "\uff1a",
            "\uff20",
            "\uff41",
        ),  # a dot, a slash, a colon, an @ and an a elsewhere in Unicode
        *("fcm.googleapis.com", ".push.apple.com", "evil.example", "127.0.0.1", "[::1]", "localhost", "x"),
        *(":443", ":80", "user"),
    ]
)
ENDPOINTS = st.tuples(
    st.sampled_from(["https://", "HTTPS://", ""]),
    st.just([]) | st.lists(PIECES, max_size=2),
    st.sampled_from(["fcm.googleapis.com", "web.push.apple.com", "Web.Push.Apple.com:443"]),
    st.lists(PIECES, max_size=4),
).map(lambda parts: parts[0] + "".join(parts[1]) + parts[2] + "".join(parts[3]))
SENDER = WebPush(
    Client(lambda: Exchange(httpx.AsyncHTTPTransport())), SETTINGS, subject="mailto:ops@example.jp", now=lambda: NOW
)


@settings(max_examples=1000)
@given(ENDPOINTS)
def test_no_two_parsers_read_an_endpoint_that_is_called_differently(endpoint: str) -> None:
    """Those of browsers take a backslash for a slash, drop tabs and line ends, and fold what looks like ASCII."""
    destination = SENDER.destination(push(Browser(KEY).subscription(endpoint)))
    event("refused" if destination == "endpoint_refused" else "called")
    if destination == "endpoint_refused":
        return
    host = destination.removeprefix("https://")
    assert host == "fcm.googleapis.com" or host.endswith(".push.apple.com")
    dropped = re.sub(r"[\t\r\n]", "", endpoint).strip()
    folded = unicodedata.normalize("NFKC", endpoint)
    for form in (endpoint, dropped, folded, endpoint.replace("\\", "/"), unquote(endpoint)):
        parts = urlsplit(form)
        assert (parts.scheme, parts.hostname, parts.port or 443, parts.username) == ("https", host, 443, None)
