"""One booted machine a session, with the tests' PostgreSQL in reach."""

from collections.abc import Iterator

import pytest

from notifierd.demo.postgres import Cluster
from tests.system.machine import Machine, booted


@pytest.fixture(scope="session")
def machine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(cluster, tmp_path_factory.mktemp("machine") / "boot.log") as running:
        yield running
