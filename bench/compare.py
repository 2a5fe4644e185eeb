"""notifierd beside what could be used instead of it: the programs in `bench.peers`, on the same work.

Each run is checked as notifierd's own are: every mail and push was accepted once, and has its audit row.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from bench.application import Application
from bench.measure import REPOSITORY, measured
from bench.runs import check_accepted, notifierd
from bench.servers import Orders, Servers
from tests.support.processes import API_KEY, DAY, DOMAIN, VAPID_KEY

Shape = Literal["batch", "single", "push"]
"""All mails of an office in one call, each mail alone in its call, or pushes."""

OURS, LEANEST = "notifierd", "leanest"

QUEUES: Mapping[str, Sequence[str]] = {
    "procrastinate": ("procrastinate", "aiohttp"),
    "dramatiq": ("dramatiq", "redis", "requests", "psycopg"),
    "celery": ("celery", "redis", "requests", "psycopg"),
}
"""The packages that each needs, of the extra ``peers``."""

ON_REDIS = ("dramatiq", "celery")

REDIS_SECONDS = 10.0

SCHEMA = """
drop schema if exists peers cascade;
create schema peers;
create table peers.told (
    day date, office_id uuid, target uuid, state text not null, primary key (day, office_id, target)
);
do $$ begin
    create role peers login superuser;
    alter role peers set search_path = peers, public;
exception when duplicate_object then null; end $$;
"""
"""The leanest program's table. The tables of procrastinate come into the same schema."""


@frozen
class Result:
    """What a run came to.

    Attributes:
        cpu: seconds on a processor for each mail or push, the start included.
        peak: the most memory that its processes had together, in MB.
        first: from the process's start to the first request, in seconds.
        statements: how many its role sent to PostgreSQL, without those that begin, end or set something.
    """

    what: str
    shape: Shape
    cpu: float
    peak: float
    first: float
    statements: int


@frozen
class Peers:
    """Runs the peers that can be run here.

    Attributes:
        left_out: why each of the others cannot.
    """

    names: Sequence[str]
    left_out: Mapping[str, str]
    _redis_url: str

    def run(
        self, what: str, application: Application, servers: Servers, shape: Shape, record: Path | None = None
    ) -> Result:
        """Have *what* tell everybody, and see that it did.

        Args:
            record: a file for the requests.
        """
        size = application.size
        if what == OURS:
            row = notifierd(application, servers, single=shape != "batch", record=record)
            cpu, peak, first, role = row.cpu, row.peak, row.first, application.role
        else:
            self._prepare(what, application, servers, shape)
            servers.next(Orders(record=str(record or "")))
            process = measured(f"bench.peers.{what}", folder=application.folder)
            accepted = servers.next()
            check_accepted(size, accepted)
            cpu, peak, first, role = process.cpu, process.peak, accepted.first - process.began, "peers"
        number = size.mail_count + size.push_count
        assert application.audit_rows() == number, (what, application.audit_rows(), number)
        return Result(what, shape, cpu / number, peak * 1.048576, first, application.statements_of(role))

    def best(self, rounds: int, application: Application, servers: Servers, shape: Shape) -> Iterator[Result]:
        """The least of what each took in so many rounds, in each of which all of them run in turn."""
        names = [OURS, LEANEST] if shape == "push" else self.names
        results = [self.run(what, application, servers, shape) for _ in range(rounds) for what in names]
        for what in names:
            own = [result for result in results if result.what == what]
            least = min(own, key=lambda result: result.cpu)
            yield evolve(least, first=min(result.first for result in own))

    def _prepare(self, what: str, application: Application, servers: Servers, shape: Shape) -> None:
        place = {
            "dsn": application.dsn("peers"),
            "redis_url": self._redis_url,
            "mail_url": servers.mail_url,
            "api_key": API_KEY,
            "vapid_key": VAPID_KEY,
            "sender": f"keikakun <notice@{DOMAIN}>",
            "templates": str(REPOSITORY / "notifierd" / "messages" / "templates"),
            "day": str(DAY),
            "push": shape == "push",
            "single": shape == "single",
        }
        (application.folder / "peer.json").write_text(json.dumps(place))
        application.sql(SCHEMA)
        if what == "procrastinate":
            command = ("--app", "bench.peers.procrastinate.app", "schema", "--apply")
            measured("procrastinate", *command, folder=application.folder)
        application.forget()


@contextmanager
def peers(folder: Path) -> Iterator[Peers]:
    """Start what the peers need, for the length of the block."""
    missing = {
        what: f"{' and '.join(found)} not installed"
        for what, packages in QUEUES.items()
        if (found := [package for package in packages if find_spec(package) is None])
    }
    server = shutil.which("redis-server")
    if server is None:
        missing |= dict.fromkeys(ON_REDIS, "redis-server not found")
    names = [OURS, LEANEST, *(what for what in QUEUES if what not in missing)]
    if server is None or not set(ON_REDIS) & set(names):
        yield Peers(names, missing, "")
    else:
        with _running_redis(server, folder) as url:
            yield Peers(names, missing, url)


@contextmanager
def _running_redis(server: str, folder: Path) -> Iterator[str]:
    """Run a Redis of our own on a free port of loopback, without persistence; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder))
    with subprocess.Popen([server, *options], stdout=subprocess.DEVNULL) as process:
        try:
            _await_answer(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def _await_answer(port: int) -> None:
    """Wait until the server on *port* takes connections."""
    deadline = time.monotonic() + REDIS_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
