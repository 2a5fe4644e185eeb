"""A PostgreSQL whose place another takes that lacks the last commits: a lagging replica, or a base backup.

Clients know one address, a directory; the socket in it is a link to the socket of the server whose turn it is. So a
client meets what it meets behind a moved address: its connections end, new ones are refused for a while, and then
another server answers, without what the first one had committed last.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, evolve, field

from notifierd.demo.postgres import SUPERUSER, Cluster, _give, _run, running_postgres
from tests.support.processes import PATIENCE

OPTIONS = {"wal_level": "replica", "max_wal_senders": "4"}
SOCKET = ".s.PGSQL.5432"

CAUGHT_UP = "select pg_last_wal_replay_lsn() >= '{lsn}'"
SENDERS = "select pid from pg_stat_replication where application_name = 'walreceiver'"
"""The name that a replica has by default (PostgreSQL's documentation, primary_conninfo)."""


@define(eq=False)
class Succession:
    """The server whose turn it is, and those that may follow it.

    Attributes:
        current: the server that clients reach.
        address: the same, by the address that stays.
    """

    current: Cluster
    address: Cluster
    _home: Path
    _made: int = field(default=0, init=False)

    def replica(self) -> Cluster:
        """Start an asynchronous streaming replica of the current server, which answers reads."""
        copy = self.backup("--write-recovery-conf")
        copy.start()
        return copy

    def backup(self, *arguments: str) -> Cluster:
        """Take a base backup of the current server as it is when this returns; it is not started yet."""
        self._made += 1
        data, sockets = (self._home / f"{kind}{self._made}" for kind in ("data", "socket"))
        for folder in (data, sockets):
            folder.mkdir(mode=0o700)
            _give(folder, self.current.user)
        command: list[str | Path] = [self.current.bin_dir / "pg_basebackup", "-h", self.current.socket_dir]
        command += ["-U", SUPERUSER, "-D", data, "--checkpoint=fast", "--no-sync", "--no-manifest", *arguments]
        _run(command, self.current.user)
        return evolve(self.current, data_dir=data, socket_dir=sockets)

    def fall_behind(self, replica: Cluster) -> None:
        """Let *replica* have all that is committed by now, and nothing that is committed after."""
        lsn = self.current.psql("select pg_current_wal_flush_lsn()").strip()
        deadline = time.monotonic() + PATIENCE
        while replica.psql(CAUGHT_UP.format(lsn=lsn)).strip() != "t":
            assert time.monotonic() < deadline, "the replica does not catch up"
            time.sleep(0.01)
        (sender,) = self.current.psql(SENDERS).split()
        os.kill(int(sender), signal.SIGSTOP)

    def fail(self) -> None:
        """Kill the current server: its clients' connections end, and new ones are refused."""
        self.current.kill()

    def follow(self, successor: Cluster) -> None:
        """Have *successor*, which serves by now, reached by the address; what was before it goes."""
        assert successor.pid is not None
        _link(self.address.socket_dir, successor)
        self.discard(self.current)
        self.current = successor

    def discard(self, cluster: Cluster) -> None:
        """Do away with a server, and all that it had."""
        cluster.kill()
        shutil.rmtree(cluster.data_dir)
        if cluster.socket_dir != self._home:
            shutil.rmtree(cluster.socket_dir)


def promote(cluster: Cluster) -> None:
    """Let a replica, or a base backup that was never started, take writes."""
    if cluster.pid is None:
        cluster.start()
    else:
        assert cluster.psql("select pg_promote()").strip() == "t"


def _link(directory: Path, cluster: Cluster) -> None:
    """Let the socket in *directory* be the one of *cluster*, from one moment to the next."""
    new = directory / "new"
    new.symlink_to(cluster.socket_dir / SOCKET)
    new.replace(directory / SOCKET)


@contextmanager
def running_succession(directory: Path) -> Iterator[Succession]:
    """Make a PostgreSQL that others can follow, and run it, or who follows it, for the length of the block."""
    with running_postgres(directory, options=OPTIONS) as first:
        address = first.socket_dir / "address"
        address.mkdir(mode=0o700)
        _give(address, first.user)
        _link(address, first)
        succession = Succession(first, evolve(first, socket_dir=address), first.socket_dir)
        try:
            yield succession
        finally:
            succession.current.kill()
