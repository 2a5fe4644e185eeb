"""A real PgBouncer in front of the tests' PostgreSQL, as Debian has it, with as few settings as it needs."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from notifierd.demo.postgres import Cluster

PROGRAM = "/usr/sbin/pgbouncer"
PORT = 6432  # of a Unix socket: part of its name only
PATIENCE = 60.0


@frozen
class Pooler:
    """A PgBouncer that runs.

    Attributes:
        folder: where its socket and its log are.
    """

    folder: Path

    def dsn(self, database: str, user: str) -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}&port={PORT}"


@contextmanager
def running_pooler(
    cluster: Cluster, mode: str, users: Sequence[str], *, pool_size: int = 10, further: str = ""
) -> Iterator[Pooler]:
    """Run a PgBouncer in *mode* that opens *pool_size* connections for each of *users* and each database.

    Args:
        further: lines of its configuration.
    """
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    try:
        (folder / "users.txt").write_text("".join(f'"{user}" ""\n' for user in users))
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={cluster.socket_dir} port=5432\n[pgbouncer]\nlisten_port = {PORT}\n"
            f"unix_socket_dir = {folder}\nauth_type = trust\nauth_file = {folder}/users.txt\n"
            f"pool_mode = {mode}\ndefault_pool_size = {pool_size}\n{further}\n"
        )
        as_server: dict[str, Any] = {}
        if cluster.user is not None:  # who alone may use the server's socket
            entry = pwd.getpwnam(cluster.user)
            as_server = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([PROGRAM, folder / "pgbouncer.ini"], stdout=log, stderr=log, **as_server)
        try:
            deadline = time.monotonic() + PATIENCE
            while not (folder / f".s.PGSQL.{PORT}").exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.01)
            yield Pooler(folder)
        finally:
            process.terminate()
            process.wait(PATIENCE)
    finally:
        shutil.rmtree(folder)
