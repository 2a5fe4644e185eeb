"""The pages: what each shows, rendered by its template."""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import jinja2
from attrs import define, evolve, field, frozen

from notifierd import __version__
from notifierd.messages.text import clean
from notifierd.model import delivery
from notifierd.model.delivery import Channel, State
from notifierd.model.errors import DatabaseError
from notifierd.model.feedback import TROUBLE
from notifierd.store.history import FailureFilter
from notifierd.web.archive import DAYS, LISTED, Archive
from notifierd.web.chart import chart
from notifierd.web.daemon import DaemonView
from notifierd.web.feedback import SHOWN, advice, became
from notifierd.web.live import Live
from notifierd.web.server.http import Request, Response
from notifierd.web.words.language import Words, preferred

T = TypeVar("T")

STATIC: Final = Path(__file__).parent / "static"
TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
STATES: Final = ("planned", "sent", "failed", "gone", "unknown", "expired", "open")
HTML: Final = "text/html; charset=utf-8"
_TO: Final = "/to-be-replaced"
"""A placeholder in a cached login form for the page to open after the login."""


@frozen
class Asset:
    """A static file of the pages; *path* changes with its content, so that browsers may cache it for ever."""

    body: bytes
    type: str
    path: str


def assets() -> Mapping[str, Asset]:
    """Return the files of STATIC, by name."""
    found = {}
    for file in sorted(STATIC.iterdir()):
        body = file.read_bytes()
        mark = hashlib.sha256(body).hexdigest()[:12]
        found[file.name] = Asset(body, TYPES[file.suffix], f"/static/{file.name}?v={mark}")
    return found


@define
class Pages:
    """Renders the pages."""

    daemon: DaemonView
    live: Live
    archive: Archive
    assets: Mapping[str, Asset] = field(factory=assets)
    _templates: jinja2.Environment = field(init=False)
    _forms: dict[tuple[str, bool], bytes] = field(factory=dict)
    """Cached login forms, by language and whether the token was wrong: strangers request them, so each is rendered
    once."""
    _forms_of: datetime | None = None
    """When the configuration was loaded that the cached forms were made from."""

    def __attrs_post_init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {
            "asset": lambda name: self.assets[name].path,
            "version": __version__,
            "channels": tuple(Channel),
            "lost_states": delivery.LOST,
            "all_states": STATES,
            "most_listed": LISTED,
            "mail_statuses": SHOWN,
            "lost_statuses": TROUBLE,
            "advice": advice,
        }
        self._templates.filters["name"] = lambda name: clean(name or "")

    def words(self, request: Request) -> Words:
        """Return the words in the reader's language."""
        settings = self.daemon.settings
        language = preferred(request.headers.get("accept-language", ""), settings.content.language)
        return Words(language, settings.window.zone)

    async def overview(self, request: Request) -> Response:
        """Render the present state, the last failures, and the last days."""
        words, today, of = self.words(request), self.live.today(), failure_filter(request)
        await self.live.look()
        now = self.live.now(words)
        recent = trouble = told = None
        try:
            recent = await self.archive.recent(today, of, now.stamp)
            told = await self.archive.told(today, self.daemon.status.last)
        except DatabaseError as error:
            trouble = error.reason
        return self._render(
            "overview.html",
            words,
            request,
            now=now,
            recent=recent,
            trouble=trouble,
            of=of,
            told=told,
            became=became(told.mails, told.looks, {one.day: one.finished_at for one in recent.days})
            if told and recent
            else (),
            members=self.live.shared.members if self.live.shared else (),
            chart=chart(recent.days if recent else (), today, DAYS),
            live=True,
        )

    async def day(self, request: Request, day: date) -> Response:
        """Render one day."""
        words, of = self.words(request), failure_filter(request)
        whole = trouble = None
        try:
            whole = await self.archive.day(day, of, self.live.now(words).stamp)
        except DatabaseError as error:
            trouble = error.reason
        status = 200 if whole else 503 if trouble else 404
        return self._render("day.html", words, request, status, day=day, whole=whole, trouble=trouble, of=of)

    async def office(self, request: Request, office_id: UUID) -> Response:
        """Render one office: the days on which it had something due, and its deliveries of one of them."""
        words = self.words(request)
        office = trouble = None
        day = parsed(date.fromisoformat, request.query.get("day"))
        try:
            stamp = self.live.now(words).stamp
            office = await self.archive.office(office_id, day, self.live.today(), stamp)
        except DatabaseError as error:
            trouble = error.reason
        status = 200 if office else 503 if trouble else 404
        return self._render("office.html", words, request, status, office_id=office_id, office=office, trouble=trouble)

    def login(self, request: Request, status: int, *, wrong: bool = False, to: str = "/") -> Response:
        """Render the login form, which leads on to one of our pages."""
        if self._forms_of != self.daemon.status.loaded_at:
            self._forms_of = self.daemon.status.loaded_at
            self._forms.clear()
        words = self.words(request)
        if (form := self._forms.get((words.language, wrong))) is None:
            form = self._render("login.html", words, evolve(request, path="/login"), wrong=wrong, to=_TO).body
            self._forms[words.language, wrong] = form
        return Response(status, form.replace(_TO.encode(), path_of_ours(to).encode()), HTML)

    def missing(self, request: Request) -> Response:
        """Render the page for a path that does not exist."""
        return self._render("missing.html", self.words(request), request, 404)

    def _render(self, template: str, words: Words, request: Request, status: int = 200, **facts: object) -> Response:
        settings = self.daemon.settings
        text = self._templates.get_template(template).render(
            t=words,
            path=request.path,
            product=clean(settings.content.product),
            zone=settings.window.timezone,
            loaded=self.daemon.status.loaded_at,
            shown_at=self.daemon.now(),
            domain=settings.email.sender_mailbox.address.partition("@")[2],
            has_token=bool(settings.http.token),
            **facts,
        )
        return Response(status, text.encode(), HTML)


def path_of_ours(text: str) -> str:
    """Return *text* if it is the path of one of our pages, else the path of the overview."""
    return text if re.fullmatch(r"/(?:[a-z]+/)?[0-9a-f-]*", text) else "/"


def failure_filter(request: Request) -> FailureFilter:
    """Return the filter for failures in the request's query; an invalid value filters nothing."""
    query = request.query
    return FailureFilter(
        parsed(Channel, query.get("channel")),
        parsed(State, query.get("state")),
        query.get("reason", "").replace("\0", "") or None,  # PostgreSQL accepts no NUL in a text
        parsed(UUID, query.get("office")),
    )


def parsed(parse: Callable[[str], T], text: str | None) -> T | None:
    """Return *parse* of *text*; None if *text* is missing, or *parse* raises ValueError."""
    try:
        return parse(text) if text else None
    except ValueError:
        return None
