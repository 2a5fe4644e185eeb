"""Who may look: the Host header, the token of programs, and the sessions of people who logged in with it."""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import structlog
import trio
from attrs import define, field

from notifierd.settings import HttpSettings
from notifierd.web.http import Request

COOKIE = "notifierd"
SESSION_SECONDS = 7 * 86_400.0
MOST_SESSIONS = 1000
WRONG_TOKEN_PAUSE = 0.5
"""Seconds that a wrong token costs; one at a time, whoever tries, so that guessing gets nowhere."""

log = structlog.get_logger(__name__)


@define
class Access:
    """The locks of [http]. A session lasts as long as this: a reload that changes [http] ends them all.

    Attributes:
        clock: seconds that only go forward.
    """

    http: HttpSettings
    clock: Callable[[], float] = trio.current_time
    _sessions: dict[bytes, float] = field(factory=dict)
    """When each ends, by the SHA-256 of its cookie's value; the oldest first."""
    _in_turn: trio.Lock = field(factory=trio.Lock)

    def knows_host(self, request: Request) -> bool:
        """Whether the request asks for us by a name of ours, or by an address.

        A page of another site whose name was made to lead here (DNS rebinding) asks by that name, never by an address.
        """
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/\s]+)(?::[0-9]+)?", request.headers.get("host", ""))
        if not found:
            return False
        name = found[1].strip("[]").rstrip(".").lower()
        return (
            _is_address(name)
            or name == "localhost"
            or name.endswith(".localhost")
            or name in {self.http.address[0].lower(), *self.http.hosts}
        )

    async def admits(self, request: Request) -> bool:
        """Whether the request may see what is behind the token: it brings it, or the cookie of a session."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return not self.http.token or await self._is_right(given.strip())
        return not self.http.token or self._session(request) is not None

    async def log_in(self, request: Request) -> str | None:
        """The Set-Cookie header of a new session, if the posted form brings the token; None if it does not."""
        (given,) = parse_qs(request.body.decode("latin-1")).get("token", [""])[:1]
        if not await self._is_right(given):
            return None
        session = secrets.token_urlsafe(32)
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(session)] = self.clock() + SESSION_SECONDS
        log.info("logged_in")
        return _cookie(session, int(SESSION_SECONDS), request)

    def log_out(self, request: Request) -> str:
        """End the request's session; the Set-Cookie header that takes the cookie back."""
        if (session := self._session(request)) is not None:
            del self._sessions[session]
        return _cookie("", 0, request)

    def _session(self, request: Request) -> bytes | None:
        # Not http.cookies: it gives up all cookies for an odd one, and those of all ports of a host come together.
        cookies = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
        session = next((_digest(value) for name, _, value in cookies if name == COOKIE), b"")
        if self._sessions.get(session, 0.0) > self.clock():
            return session
        self._sessions.pop(session, None)
        return None

    async def _is_right(self, given: str) -> bool:
        if hmac.compare_digest(_digest(given), _digest(self.http.token)):  # of equal length, whatever was given
            return True
        log.warning("token_refused")
        async with self._in_turn:
            await trio.sleep(WRONG_TOKEN_PAUSE)
        return False


def is_ours(request: Request) -> bool:
    """Whether a form was posted from a page of ours, by what only the browser can say (Fetch Metadata, or Origin)."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _cookie(value: str, seconds: int, request: Request) -> str:
    """A Set-Cookie header (RFC 6265). Secure if the browser says that it came by https, through a proxy, that is."""
    secure = "; Secure" if request.headers.get("origin", "").startswith("https:") else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
