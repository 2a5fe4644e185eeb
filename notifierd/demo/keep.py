"""Keep the demo running: a daemon in this process serves the page, until Ctrl-C."""

import os
import socket
import sys
import webbrowser
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import trio

from notifierd.config.load import load_for_sending
from notifierd.service.daemon import Daemon
from notifierd.service.site import claim_alarm, open_site, utc_now
from notifierd.service.systemd import Notifier
from notifierd.web.service import keep_serving

HOST = "127.0.0.1"
POLL = 0.05


def free_port() -> int:
    """Return a port of HOST that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def keep_running(config: Path, port: int) -> None:
    """Run the daemon of *config*, whose page is at *port*, until Ctrl-C or SIGTERM.

    Open the page in a browser if stdout is a terminal and there is a display.
    """
    daemon = Daemon(
        load=partial(load_for_sending, config, {}),
        open_site=open_site,
        now=utc_now,
        notifier=Notifier.of({}),
        in_force=lambda _settings: None,
        claim_alarm=claim_alarm,
        keep_serving=partial(_serve, port=port),
    )
    trio.run(daemon.run)


async def _serve(daemon: Daemon, *, port: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_serving, daemon)
        if sys.stdout.isatty() and has_display(os.environ):
            await _open_page(port)


async def _open_page(port: int) -> None:
    """Open the page in the person's browser once it is served."""
    while True:
        try:
            stream = await trio.open_tcp_stream(HOST, port)
        except OSError:
            await trio.sleep(POLL)
        else:
            await stream.aclose()
            break
    await trio.to_thread.run_sync(webbrowser.open, f"http://{HOST}:{port}/", abandon_on_cancel=True)


def has_display(environ: Mapping[str, str]) -> bool:
    """Return whether a browser would open a window: without a display, it would take over the terminal."""
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
