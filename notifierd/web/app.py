"""What is asked for by which path, who may have it, and the headers that all answers share."""

from typing import Final

import trio
from attrs import define, evolve, field

from notifierd.errors import NotifierdError
from notifierd.web.access import Access
from notifierd.web.http import Request, Response
from notifierd.web.metrics import CONTENT_TYPE, scrape
from notifierd.web.shown import Shown

READY_FOR = 5.0
"""Seconds for which a look at the database is believed, so that probes do not become its load."""

LOOK_SECONDS = 10.0

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # no-referrer would take the Origin of our own forms away
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@define
class App:
    """Answers every request."""

    daemon: Shown
    access: Access
    _looked_at: float = -float("inf")
    _trouble: str = ""
    """What was wrong with the database when it was last looked at."""
    _looking: trio.Lock = field(factory=trio.Lock)

    async def respond(self, request: Request) -> Response:
        """The answer, with the headers that all answers have."""
        response = await self._route(request)
        return evolve(response, headers=HEADERS | dict(response.headers))

    async def _route(self, request: Request) -> Response:
        match request.path:
            case "/healthz":
                return Response.text(200, "alive")
            case "/readyz":
                return await self._readiness()
        if not self.access.knows_host(request):
            return Response.text(421, "not a name of ours: add it to http.hosts")
        if request.method not in {"GET", "HEAD"}:
            return Response.text(405, allow="GET, HEAD")
        if not await self.access.admits(request):
            return Response.text(401, **{"www-authenticate": "Bearer"})
        match request.path:
            case "/metrics":
                return Response(200, scrape(self.daemon), CONTENT_TYPE)
        return Response.text(404)

    async def _readiness(self) -> Response:
        """Whether a run could begin: the daemon is up and not stopping, and its database can be worked with."""
        if not self.daemon.ready:
            return Response.text(503, self.daemon.status.state)
        async with self._looking:
            if trio.current_time() >= self._looked_at + READY_FOR:
                self._trouble = await self._look()
                self._looked_at = trio.current_time()
        return Response.text(503, self._trouble) if self._trouble else Response.text(200, "ready")

    async def _look(self) -> str:
        try:
            with trio.fail_after(LOOK_SECONDS):
                async with self.daemon.open_site(self.daemon.settings):
                    return ""
        except trio.TooSlowError:
            return "the database does not answer"
        except NotifierdError as error:
            return str(error)
