"""Access control: the Host header, the token for programs, and the sessions of people who logged in with the token."""

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
"""Seconds that a wrong token waits for its answer. The waits are served one at a time, for all clients together, so
that guessing is hopeless."""

MOST_PAUSING = 8
"""The most wrong tokens that wait at once. Others are refused without a wait: they would occupy the connections of
strangers."""

TOLD_EVERY = 60.0
"""Seconds between two log lines about wrong tokens."""

log = structlog.get_logger(__name__)


@define
class Access:
    """The access rules of [http]. The sessions live in this object: a reload that changes [http] ends them all.

    Attributes:
        clock: a monotonic clock, in seconds.
    """

    http: HttpSettings
    clock: Callable[[], float] = trio.current_time
    _sessions: dict[bytes, float] = field(factory=dict)
    """When each session ends, by the SHA-256 of its cookie's value; the oldest first."""
    _in_turn: trio.Lock = field(factory=trio.Lock)
    _wrong: int = 0
    """Wrong tokens that were not logged yet."""
    _told: float = -float("inf")

    def knows_host(self, request: Request) -> bool:
        """Whether the Host header is an address, or a name of this server.

        This check stops DNS rebinding: a foreign site whose name resolves to this server sends its own name, never an
        address.
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
        """Whether the request may see what the token protects: it carries the token, or the cookie of a session."""
        if not self.http.token:
            return True
        given = _bearer(request)
        return self._session(request) is not None if given is None else self._matches(given)

    async def admits(self, request: Request) -> bool:
        """Return `knows`; a wrong token also waits."""
        if self.knows(request):
            return True
        if _bearer(request) is not None:
            await self._refuse()
        return False

    def lasting(self, request: Request) -> Callable[[], bool]:
        """Return a function that tells whether the request is still admitted: its session may end meanwhile."""
        if not self.http.token or _bearer(request) is not None:
            return lambda: True
        return lambda: self._session(request) is not None

    async def log_in(self, request: Request) -> str | None:
        """Return the Set-Cookie header of a new session if the posted form has the token; None if it does not."""
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
        """End the request's session; return the Set-Cookie header that deletes the cookie."""
        if (session := self._session(request)) is not None:
            del self._sessions[session]
        return _cookie("", 0, request)

    def _session(self, request: Request) -> bytes | None:
        # Not http.cookies, which discards all cookies if one is malformed, and a browser sends the cookies of all
        # ports of a host.
        cookies = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
        session = next((_digest(value) for name, _, value in cookies if name == COOKIE), b"")
        if self._sessions.get(session, 0.0) > self.clock():
            return session
        self._sessions.pop(session, None)
        return None

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given), _digest(self.http.token))  # digests have equal lengths

    async def _refuse(self) -> None:
        """Count a wrong token, log the count at intervals, and wait."""
        self._wrong += 1
        if self.clock() >= self._told + TOLD_EVERY:
            log.warning("token_refused", times=self._wrong)
            self._told, self._wrong = self.clock(), 0
        if self._in_turn.statistics().tasks_waiting < MOST_PAUSING:
            async with self._in_turn:
                await trio.sleep(WRONG_TOKEN_PAUSE)


def is_ours(request: Request) -> bool:
    """Whether a form was posted from our own page, by headers that only a browser sets (Fetch Metadata, Origin)."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _bearer(request: Request) -> str | None:
    """Return a program's token; None if the request has none (RFC 6750, section 2.1)."""
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
    """Return a Set-Cookie header (RFC 6265), Secure if the page came by https, which means through a proxy."""
    secure = "; Secure" if request.headers.get("origin", "").startswith("https:") else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
