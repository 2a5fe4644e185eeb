"""This version beside an older one on the same database: nobody is lost, and nobody told twice."""

import io
import signal
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from attrs import evolve

from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.process import Servers
from notifierd.demo.servers.trouble import MailConfig
from tests.conftest import TEMPLATE
from tests.support.daemon_process import OPEN, TODAY, running_service
from tests.support.faults import until
from tests.support.processes import API_KEY, Place, ended, invent, running

REPOSITORY = Path(__file__).parents[2]
BEFORE = "f5c81e59586a7fc28b10475ecebcfafc05732c61"
"""The last commit whose processes share no day."""

_numbers = count(1)

OFFICES = 80
LIMITS = {"email": 2, "send_timeout": 5.0}
SHARED = {"share": True, "renew_seconds": 1.0}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older version's package."""
    command = ["git", "archive", BEFORE, "notifierd"]
    archive = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip("the repository's history is not here")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def place(older: Path, cluster: Cluster, servers: Servers, tmp_path: Path) -> Iterator[Place]:
    """A place that the older version has set up, and that both can serve."""
    number = next(_numbers)
    database, role = f"two_versions_{number}", f"daemon_of_two_versions_{number}"
    cluster.create_database(database, template=TEMPLATE)
    cluster.psql(f"create role {role} login")
    seen = len(servers.mails()), len(servers.pushes())
    found = Place(tmp_path, cluster, database, role, servers, seen)
    initialise(found, older)
    found.load(invent(OFFICES, staff=1, day=TODAY))
    slowly(found, 2000.0)
    yield found
    cluster.drop_database(database)
    cluster.psql(f"drop role {role}")


def slowly(place: Place, latency_ms: float) -> None:
    """Have a mail take so long."""
    place.serve(invent(OFFICES, staff=1, day=TODAY), MailConfig(API_KEY, latency_ms, keep_eml=False))


def initialise(place: Place, source: Path = REPOSITORY) -> None:
    """Have the version at *source* migrate the schema, and give the role what it needs."""
    dsn, environ = place.cluster.dsn(place.database), {"PYTHONPATH": str(source)}
    arguments = ("--dsn", dsn)
    if place.sql("select to_regclass('notifierd.migrations') is not null") == "t":
        with running("db", "migrate", *arguments, cwd=place.folder, environ=environ) as process:
            ended(process, 0)
    init = ("db", "init", "--preset", "keikakun", "--role", place.role, *arguments)
    with running(*init, cwd=place.folder, environ=environ) as process:
        ended(process, 0)


def newer(place: Place, name: str) -> Place:
    """Another folder for the same database, whose daemon shares the day."""
    folder = place.folder / name
    folder.mkdir()
    found = evolve(place, folder=folder)
    found.configure(window=OPEN, limits=LIMITS, cluster=SHARED)
    return found


def everybody_was_told_once(place: Place) -> bool:
    told = Counter(mail.to for mail in place.mails())
    return place.states() == {"sent": OFFICES} and len(told) == OFFICES and set(told.values()) == {1}


async def test_migrated_in_mid_run_an_older_daemon_goes_on_and_when_it_dies_newer_ones_follow(
    place: Place, older: Path
) -> None:
    place.configure(window=OPEN, limits=LIMITS)
    async with running_service(place, source=older) as old:
        await until(lambda: len(place.mails()) >= 5, "the first mails")
        initialise(place)
        async with running_service(newer(place, "first")) as first, running_service(newer(place, "second")) as second:
            await until(lambda: first.said("standing_by") and second.said("standing_by"), "the newer ones to stand by")
            told = len(place.mails())
            await until(lambda: len(place.mails()) > told, "the older one to go on")
            slowly(place, 300.0)
            assert place.states()["planned"] > 0
            old.tell(signal.SIGKILL)
            await old.over()
            for service in (first, second):
                await until(partial(service.shows, "sleeping until"), "the day to be done")
                service.tell(signal.SIGTERM)
                await service.ended(0)
    assert everybody_was_told_once(place)
    assert place.sql("select state from notifierd.runs") == "completed"


async def test_an_older_daemon_that_starts_beside_newer_ones_sends_nothing(place: Place, older: Path) -> None:
    initialise(place)
    own = newer(place, "newer")
    place.configure(window=OPEN, limits=LIMITS)
    async with running_service(own) as service:
        await until(lambda: len(place.mails()) >= 5, "the first mails")
        async with running_service(place, source=older) as old:
            await until(lambda: old.process.poll() is not None, "the older one to end")
            assert "the schema" in (await old.over()).err
        slowly(place, 100.0)
        await until(lambda: service.shows("sleeping until"), "the day to be done")
        service.tell(signal.SIGTERM)
        await service.ended(0)
    assert everybody_was_told_once(place)
