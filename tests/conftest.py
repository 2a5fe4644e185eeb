"""What the tests share: one PostgreSQL a worker, and a fresh database with the application's tables for each test."""

import gc
import os
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from notifierd.demo.application import tables_sql
from notifierd.demo.postgres import Cluster, running_postgres
from notifierd.demo.servers.process import Servers, running_servers
from tests.support.processes import Place, Template, forked, running_template
from tests.support.warm import Warm, warm

TEMPLATE = "keikakun_template"

# The same examples each time, and no limit for one of them: CI's machine is shared, and a red run must be ours.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

_numbers = count(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the garbage collector pass over what is imported and collected: it stays, and is much."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run a PostgreSQL for all tests of this worker, with ``keikakun_template`` to make databases from.

    Without autovacuum: it takes transaction ids, and a test sees that none is taken.
    """
    with (
        TemporaryDirectory(prefix="notifierd-tests-") as directory,
        running_postgres(Path(directory), options={"autovacuum": "off"}) as running,
    ):
        running.create_database(TEMPLATE)
        running.psql(tables_sql(), TEMPLATE)
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """Make a database with the application's empty tables; return its DSN."""
    name = f"keikakun_{next(_numbers)}"
    yield cluster.create_database(name, template=TEMPLATE)
    cluster.drop_database(name)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run the mail API and the push service for this module."""
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def template(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    with running_template(cluster, tmp_path_factory.mktemp("template")) as made:
        yield made


@pytest.fixture(scope="session")
def commands() -> Iterator[Warm]:
    """Start the process that commands are forked from."""
    with warm() as started:
        yield started


@pytest.fixture
def _forked_commands(commands: Warm) -> Iterator[None]:
    """Fork the commands that ``run`` and ``Place.once`` run, for tests of what a command does when it has started.

    Where coverage is measured they start from nothing: a fork would leave no figures.
    """
    with nullcontext() if "COVERAGE_PROCESS_CONFIG" in os.environ else forked(commands.run):
        yield


@pytest.fixture
def place(template: Template, servers: Servers, tmp_path: Path) -> Iterator[Place]:
    """Make a database, a configuration, and servers that make no trouble."""
    with template.place(tmp_path, servers) as made:
        yield made
