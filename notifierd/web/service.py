"""Keep the page served. No failure in here reaches a run."""

import errno

import structlog
import trio

from notifierd.config.settings import HttpSettings
from notifierd.model.errors import first_of, frame_locations
from notifierd.rules.backoff import Backoff
from notifierd.web.access import Access
from notifierd.web.app import App
from notifierd.web.daemon import DaemonView
from notifierd.web.server.http import QUEUE, serve

BACKOFF = Backoff(first=1.0, longest=60.0)
"""Pauses after failures. They start again from the shortest after the page was served for longer than the longest
pause."""

log = structlog.get_logger(__name__)


async def keep_serving(daemon: DaemonView) -> None:
    """Serve as [http] says; restart after a reload that changes it and, with growing pauses, after each failure."""
    failures = 0
    while True:
        http, began = daemon.settings.http, trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_changed, daemon, nursery.cancel_scope)
            if http.enabled:
                await _serve(daemon, http)
                failures = 1 if trio.current_time() - began > BACKOFF.longest else failures + 1
                await trio.sleep(BACKOFF.pause(failures))
                nursery.cancel_scope.cancel()


async def _cancel_when_changed(daemon: DaemonView, serving: trio.CancelScope) -> None:
    http = daemon.settings.http
    while daemon.settings.http == http:
        await daemon.wakeup()
    serving.cancel()


async def _serve(daemon: DaemonView, http: HttpSettings) -> None:
    """Serve until it fails or is cancelled. A failure is reported once, in the log and in the status."""
    status, trouble = daemon.status, ""
    host, port = http.address
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=QUEUE)
        status.unserved = ""
        names = sorted("{}:{}".format(*listener.socket.getsockname()[:2]) for listener in listeners)
        log.info("listening", addresses=names)
        app = App(daemon, Access(http))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.live.keep_looking)
            await serve(listeners, app)
    except* OSError as group:
        code = getattr(first_of(group), "errno", None)
        trouble = f"no page at {http.bind} ({errno.errorcode.get(code or 0, 'no such address')})"
    except* Exception as group:  # noqa: BLE001 - a run must go on without the page
        first = first_of(group)
        log.error("page_failed", error=type(first).__name__, where=frame_locations(first))  # noqa: TRY400 - the error's text may quote a person
        trouble = f"no page at {http.bind} ({type(first).__name__})"
    if trouble != status.unserved:
        log.error("page_not_served", reason=trouble)
    status.unserved = trouble
    status.tell()
