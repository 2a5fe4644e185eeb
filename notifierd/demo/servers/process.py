"""The local mail API and push service in their own process: ``python -m notifierd.demo.servers.process --out DIR``.

They listen on loopback, on ports that the system chooses, and print the ports as a first line of JSON on stdout. Their
behaviour is a ServersConfig: from ``--config FILE``, and then from each line of JSON on stdin, which a line on stdout
acknowledges. They stop at SIGTERM, and when stdin closes, so that they never outlive the process that started them.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Final, Self, cast

import attrs
import trio
from attrs import field, frozen

from notifierd.demo.servers import journal
from notifierd.demo.servers.http11 import serve_connection
from notifierd.demo.servers.mail_api import AcceptedMail, MailApi
from notifierd.demo.servers.push_service import AcceptedPush, PushService
from notifierd.demo.servers.smtp import serve_session
from notifierd.demo.servers.trouble import ServersConfig
from notifierd.model.errors import NotifierdError

_PATIENCE_SECONDS: Final = 30.0


class ServersFailed(NotifierdError):
    """The servers did not start, or did not accept their configuration. The message ends with their output."""


@frozen
class Ready:
    """The line that tells where the servers listen."""

    mail_url: str
    push_url: str
    smtp_port: int
    pid: int


@frozen
class Servers:
    """The servers' process, for the process that started it.

    Attributes:
        mail_url: the mail API's origin, for ``email.resend.base_url``.
        push_url: the push service's origin; a device's endpoint is ``{push_url}/push/{token}``.
        smtp_port: where the mail API accepts mails by SMTP, without TLS.
        pid: the id of the process that runs both.
        out: the directory with ``mails`` and ``pushes``.
    """

    mail_url: str
    push_url: str
    smtp_port: int
    pid: int
    out: Path
    _stdin: IO[bytes] = field(repr=False)
    _stdout: IO[bytes] = field(repr=False)

    def configure(self, config: ServersConfig) -> None:
        """Change the servers' behaviour; return when it has changed. What they have accepted stays.

        Raises:
            ServersFailed: they have ended.
        """
        with suppress(BrokenPipeError):  # the missing acknowledgement tells
            self._stdin.write(config.to_json().encode() + b"\n")
            self._stdin.flush()
        _line(self._stdout, self.out)

    def mails(self) -> list[AcceptedMail]:
        """Return the mails accepted so far."""
        return journal.read(self.out / "mails", AcceptedMail)

    def pushes(self) -> list[AcceptedPush]:
        """Return the pushes accepted so far."""
        return journal.read(self.out / "pushes", AcceptedPush)


@contextmanager
def running_servers(out: Path, config: ServersConfig | None = None) -> Iterator[Servers]:
    """Run both servers during the block; what they accept is written to *out*, and stays there.

    Raises:
        ServersFailed: they did not start.
    """
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (out / "servers.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "notifierd.demo.servers.process", "--out", out],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C must reach only the daemon, which needs the servers to drain
        )
    stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        ready = Ready(**json.loads(_line(stdout, out)))
        servers = Servers(**attrs.asdict(ready), out=out, stdin=stdin, stdout=stdout)
        if config is not None:
            servers.configure(config)
        yield servers
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stdout.close()
        with suppress(BrokenPipeError):
            stdin.close()


def _line(stdout: IO[bytes], out: Path) -> bytes:
    if select.select([stdout], [], [], _PATIENCE_SECONDS)[0] and (line := stdout.readline()):
        return line
    raise ServersFailed(f"no answer from the demo's servers: {(out / 'servers.log').read_text()[-2000:].strip()}")


@frozen
class _Both:
    """The two servers, inside their process."""

    mail: MailApi
    push: PushService

    def configure(self, config: ServersConfig) -> Self:
        self.mail.configure(config.mail)
        self.push.configure(config.push)
        return self


async def _serve(out: Path, config: ServersConfig) -> None:
    [mail_listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    [push_listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    [smtp_listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    mail_port, push_port, smtp_port = (
        listener.socket.getsockname()[1] for listener in (mail_listener, push_listener, smtp_listener)
    )
    mail_url, push_url = f"http://127.0.0.1:{mail_port}", f"http://127.0.0.1:{push_port}"
    both = _Both(MailApi.open(out / "mails"), PushService.open(out / "pushes", push_url)).configure(config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_at_signal, nursery.cancel_scope)
        nursery.start_soon(_obey_stdin, both, nursery.cancel_scope)
        nursery.start_soon(trio.serve_listeners, partial(serve_connection, handle=both.mail.handle), [mail_listener])
        nursery.start_soon(trio.serve_listeners, partial(serve_connection, handle=both.push.handle), [push_listener])
        nursery.start_soon(trio.serve_listeners, partial(serve_session, handle=both.mail.submit), [smtp_listener])
        _say(json.dumps(attrs.asdict(Ready(mail_url, push_url, smtp_port, os.getpid()))))


async def _stop_at_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _obey_stdin(both: _Both, scope: trio.CancelScope) -> None:
    """Apply each line as a new configuration; stop everything at the end of the input."""
    pending = b""
    # os.read, not sys.stdin: an abandoned thread that holds stdin's lock would break the interpreter's exit.
    while chunk := await trio.to_thread.run_sync(os.read, 0, 65536, abandon_on_cancel=True):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            both.configure(ServersConfig.from_json(line))
            _say('{"configured": true}')
    scope.cancel()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="notifierd.demo.servers.process", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for what is accepted")
    parser.add_argument("--config", type=Path, help="a ServersConfig as JSON")
    arguments = parser.parse_args()
    config = ServersConfig() if arguments.config is None else ServersConfig.from_json(arguments.config.read_bytes())
    trio.run(_serve, arguments.out, config)


if __name__ == "__main__":
    main()
