"""The routes, who may use each, and the headers that all answers share."""

from datetime import date
from functools import partial
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

import trio
from attrs import define, evolve, field

from notifierd.model.errors import NotifierdError
from notifierd.web.access import Access, is_ours
from notifierd.web.archive import LOOK_SECONDS, Archive
from notifierd.web.daemon import DaemonView
from notifierd.web.live import MOST_STREAMS, Live
from notifierd.web.pages import Pages, parsed, path_of_ours
from notifierd.web.server.http import Request, Response
from notifierd.web.server.places import ALIVE, METRICS, READER, READY, STRANGER, Kind

READY_FOR = 5.0
"""Seconds for which the result of a database check is reused, so that probes put no load on the database."""

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "same-origin",  # no-referrer would remove the Origin of our own forms
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@define
class App:
    """Answers every request."""

    daemon: DaemonView
    access: Access
    live: Live = field(init=False)
    archive: Archive = field(init=False)
    pages: Pages = field(init=False)
    _looked_at: float = -float("inf")
    _trouble: str = ""
    """The result of the last database check; empty if the database works."""
    _looking: trio.Lock = field(factory=trio.Lock)

    def __attrs_post_init__(self) -> None:
        self.archive = Archive(self.daemon)
        self.live = Live(self.daemon, self.archive.shared)
        self.pages = Pages(self.daemon, self.live, self.archive)

    def sort(self, request: Request) -> Kind:
        """Return the kind of a request, which decides its quota; without a token, strangers may get static files."""
        match request.path:
            case "/healthz":
                return ALIVE
            case "/readyz":
                return READY
        if not (self.access.knows_host(request) and self.access.knows(request)):
            return STRANGER
        if request.path == "/metrics":
            return METRICS
        is_file = request.path.startswith("/static/")
        return STRANGER if is_file and not self.access.http.token else READER

    async def respond(self, request: Request) -> Response:
        """Return the answer, with the headers that all answers have."""
        response = await self._route(request)
        return evolve(response, headers=HEADERS | dict(response.headers))

    async def _route(self, request: Request) -> Response:
        match request.path:
            case "/healthz":
                return Response.text(200, "alive")
            case "/readyz":
                return await self._readiness()
        if not self.access.knows_host(request):
            return Response.text(421, "unknown host name: add it to http.hosts")
        if request.path in {"/login", "/logout"}:
            return await self._session(request)
        if request.method not in {"GET", "HEAD"}:
            return Response.text(405, allow="GET, HEAD")
        if request.path.startswith("/static/"):
            return self._static(request)
        if not await self.access.admits(request):
            return self._stranger(request)
        return await self._page(request)

    async def _page(self, request: Request) -> Response:
        match request.path.split("/")[1:]:
            case [""]:
                return await self.pages.overview(request)
            case ["days", text] if (day := parsed(date.fromisoformat, text)) is not None:
                return await self.pages.day(request, day)
            case ["offices", text] if (office_id := parsed(UUID, text)) is not None:
                return await self.pages.office(request, office_id)
            case ["events"]:
                return self._events(request)
            case ["metrics"]:
                from notifierd.web.metrics import CONTENT_TYPE, scrape  # noqa: PLC0415 - takes 20 ms and 1 MB

                today, stamp = self.live.today(), self.daemon.status.last
                days, told = await self.archive.last_days(today, stamp), await self.archive.told(today, stamp)
                return Response(200, scrape(self.daemon, days, told, self.live.streams), CONTENT_TYPE)
        return self.pages.missing(request)

    def _stranger(self, request: Request) -> Response:
        """Ask for the token: with a login form if the request is for a page, else with a plain 401."""
        if request.path in {"/metrics", "/events"}:
            return Response.text(401, **{"www-authenticate": "Bearer"})
        response = self.pages.login(request, 401, to=request.path)
        return evolve(response, headers={"www-authenticate": "Bearer"})

    async def _session(self, request: Request) -> Response:
        if request.method != "POST":
            return self.pages.login(request, 200) if request.path == "/login" else _see("/")
        if not is_ours(request):
            return Response.text(403, "the request does not come from this page")
        if request.path == "/logout":
            return _see("/", **{"set-cookie": self.access.log_out(request)})
        to = dict(parse_qsl(request.body.decode("latin-1"))).get("to", "/")
        cookie = await self.access.log_in(request)
        if cookie is None:
            return self.pages.login(request, 403, wrong=True, to=to)
        return _see(path_of_ours(to), **{"set-cookie": cookie})

    def _static(self, request: Request) -> Response:
        asset = self.pages.assets.get(request.path.removeprefix("/static/"))
        if asset is None:
            return Response.text(404)
        is_named_by_hash = asset.path == f"{request.path}?v={request.query.get('v')}"
        lasts = "public, max-age=31536000, immutable" if is_named_by_hash else "no-cache"
        return Response(200, asset.body, asset.type, {"cache-control": lasts})

    def _events(self, request: Request) -> Response:
        if self.daemon.status.stopping or self.live.streams >= MOST_STREAMS:
            return Response.text(503, "no live view now", **{"retry-after": "10"})
        words = self.pages.words(request)
        unbuffered = {"x-accel-buffering": "no"}  # nginx would otherwise buffer the events
        stream = partial(self.live.stream, words, self.access.lasting(request))
        return Response(200, b"", "text/event-stream", unbuffered, stream)

    async def _readiness(self) -> Response:
        """Answer whether a run could start: the daemon is up and not stopping, and its database is usable."""
        status = self.daemon.status
        if not status.ready or status.stopping:
            return Response.text(503, status.state)
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


def _see(path: str, **headers: str) -> Response:
    return Response(303, headers={"location": path, **headers})
