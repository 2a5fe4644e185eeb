"""What the tests share: one PostgreSQL a session, and a fresh database with the application's tables for each test."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from notifierd.demo.application import tables_sql
from notifierd.demo.postgres import Cluster, running_postgres

TEMPLATE = "keikakun_template"

_numbers = count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run a PostgreSQL for the whole session, with ``keikakun_template`` to make databases from."""
    with TemporaryDirectory(prefix="notifierd-tests-") as directory, running_postgres(Path(directory)) as running:
        running.create_database(TEMPLATE)
        running.psql(tables_sql(), TEMPLATE)
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """Make a database with the application's empty tables; return its DSN."""
    name = f"keikakun_{next(_numbers)}"
    yield cluster.create_database(name, template=TEMPLATE)
    cluster.drop_database(name)
