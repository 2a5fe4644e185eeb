"""One booted machine a session, with the tests' PostgreSQL in reach; the servers are in its network."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from notifierd.demo.postgres import Cluster
from notifierd.demo.servers import Servers, running_servers
from tests.system.machine import Machine, booted


@pytest.fixture(scope="session")
def machine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(cluster, tmp_path_factory.mktemp("machine") / "boot.log") as running:
        yield running


@pytest.fixture(scope="module")
def servers(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run the mail API and the push service on the machine's loopback."""
    with ExitStack() as stack:
        with machine.network():
            running = stack.enter_context(running_servers(tmp_path_factory.mktemp("servers")))
        yield running
