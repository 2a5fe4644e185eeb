"""Who may look: the Host header, the token of programs, and the sessions of people who logged in with it."""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from urllib.parse import parse_qs

import structlog
import trio
from attrs import define, field

from notifierd.config.settings import HttpSettings
from notifierd.web.server.http import Request

COOKIE = "notifierd"
SESSION_SECONDS = 7 * 86_400.0
MOST_SESSIONS = 1000
WRONG_TOKEN_PAUSE = 0.5
"""Seconds that a wrong token costs; one at a time, whoever tries, so that guessing gets nowhere."""

MOST_PAUSING = 8
"""Wrong tokens that wait for their pause. Others are refused at once: they would use up the places of strangers."""

TOLD_EVERY = 60.0
"""Seconds between two lines about wrong tokens."""

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
    _wrong: int = 0
    """Tokens that were wrong, and were not told of yet."""
    _told: float = -float("inf")

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

    def knows(self, request: Request) -> bool:
        """Whether the request may see what is behind the token: it brings it, or the cookie of a session."""
        if not self.http.token:
            return True
        given = _bearer(request)
        return self._session(request) is not None if given is None else self._matches(given)

    async def admits(self, request: Request) -> bool:
        """The same; a wrong token costs a pause."""
        if self.knows(request):
            return True
        if _bearer(request) is not None:
            await self._refuse()
        return False

    def lasting(self, request: Request) -> Callable[[], bool]:
        """Whether what the request was admitted for is still so, to be asked again and again: a session ends."""
        if not self.http.token or _bearer(request) is not None:
            return lambda: True
        return lambda: self._session(request) is not None

    async def log_in(self, request: Request) -> str | None:
        """The Set-Cookie header of a new session, if the posted form brings the token; None if it does not."""
        (given,) = parse_qs(request.body.decode("latin-1")).get("token", [""])[:1]
        if not self._matches(given):
            await self._refuse()
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

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given), _digest(self.http.token))  # of equal length, whatever was given

    async def _refuse(self) -> None:
        """Count a wrong token, tell of them from time to time, and let it cost its pause."""
        self._wrong += 1
        if self.clock() >= self._told + TOLD_EVERY:
            log.warning("token_refused", times=self._wrong)
            self._told, self._wrong = self.clock(), 0
        if self._in_turn.statistics().tasks_waiting < MOST_PAUSING:
            async with self._in_turn:
                await trio.sleep(WRONG_TOKEN_PAUSE)


def is_ours(request: Request) -> bool:
    """Whether a form was posted from a page of ours, by what only the browser can say (Fetch Metadata, or Origin)."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _bearer(request: Request) -> str | None:
    """The token of a program; None if the request brings none (RFC 6750, section 2.1)."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


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
