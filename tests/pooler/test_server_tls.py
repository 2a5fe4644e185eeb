"""TLS as PostgreSQL itself speaks it: Debian's server, as the embedded one is built without OpenSSL."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from attrs import frozen

from notifierd.demo.postgres import Cluster, running_postgres
from notifierd.store.connection.advice import advice
from tests.support.certificates import certificate
from tests.support.processes import PASSWORD, Done, run, until

PROGRAMS = "/usr/lib/postgresql/*/bin"

HBA = """
local all all trust
hostssl all postgres all trust
hostssl all secret all scram-sha-256
hostssl all a all cert
"""
"""``a`` is the name in the certificate a.pem."""


@frozen
class Server:
    """A PostgreSQL that takes TLS at a loopback address of its own."""

    cluster: Cluster
    address: str
    folder: Path

    def shows(self, name: str, **settings: str) -> None:
        """Let it show the certificate in *name*, under *settings*."""
        path = self.folder / name
        settings = {"ssl_cert_file": str(path), "ssl_key_file": str(path)} | settings
        self.cluster.psql("".join(f"alter system set {key} = '{value}';" for key, value in settings.items()))
        self.cluster.psql("select pg_reload_conf()")
        until(lambda: self.cluster.psql("show ssl_cert_file").strip() == str(path), "the reload")

    def status(self, parameters: str, folder: Path, login: str = "postgres") -> Done:
        """Ask for the schema's status."""
        files = {path.stem: path for path in self.folder.glob("*.pem")}
        dsn = f"postgresql://{login}@{self.address}/postgres?{parameters.format(**files)}"
        return run("db", "status", "--dsn", dsn, cwd=folder, environ={"HOME": str(folder)})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    (*_, programs) = sorted(Path("/").glob(PROGRAMS.removeprefix("/")))
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 1}"
    with TemporaryDirectory(prefix="notifierd-tls-") as directory:
        folder = Path(directory)
        certificate(folder / "good.pem", address=address)
        certificate(folder / "elsewhere.pem", address="192.0.2.1")
        certificate(folder / "expired.pem", address=address, days=(-9, -1))
        certificate(folder / "a.pem")
        certificate(folder / "other.pem")
        options = {"listen_addresses": address, "ssl_ca_file": str(folder / "a.pem")}
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "nobody")
        for path in folder.iterdir():
            path.chmod(0o600)
        with running_postgres(tmp_path_factory.mktemp("tls"), bin_dir=programs, options=options) as cluster:
            (cluster.data_dir / "pg_hba.conf").write_text(HBA)
            cluster.psql(f"create role a login; create role secret login password '{PASSWORD}'")
            made = Server(cluster, address, folder)
            made.shows("good.pem", ssl="on")
            yield made


@pytest.mark.parametrize(
    ("login", "parameters"),
    [
        ("postgres", ""),
        ("postgres", "sslmode=require"),
        ("postgres", "sslmode=verify-ca&sslrootcert={good}"),
        ("postgres", "sslmode=verify-full&sslrootcert={good}"),
        ("postgres", "sslmode=require&channel_binding=require&sslrootcert={good}"),
        ("postgres", "sslmode=verify-full&sslrootcert={good}&ssl_min_protocol_version=TLSv1.3"),
        (f"secret:{PASSWORD}", "sslmode=verify-full&sslrootcert={good}"),
        ("a", "sslmode=verify-full&sslrootcert={good}&sslcert={a}"),
    ],
)
def test_a_server_that_is_as_it_should_be_is_answered(server: Server, tmp_path: Path, login: str, parameters: str):
    server.shows("good.pem")
    done = server.status(parameters, tmp_path, login)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("shown", "settings", "login", "parameters", "cause"),
    [
        ("elsewhere.pem", {}, "postgres", "sslmode=verify-full&sslrootcert={elsewhere}", "certificate_name"),
        ("expired.pem", {}, "postgres", "sslmode=verify-full&sslrootcert={expired}", "certificate_expired"),
        ("good.pem", {}, "postgres", "sslmode=verify-full&sslrootcert={other}", "certificate_untrusted"),
        ("good.pem", {}, "postgres", "sslrootcert=system", "certificate_untrusted"),
        ("good.pem", {}, "postgres", "sslmode=disable", "28000"),
        ("good.pem", {}, f"secret:not-{PASSWORD}", "sslmode=require", "28P01"),
        ("good.pem", {}, "a", "sslmode=require", "28000"),
        # The server rejects it after the handshake: its alert arrives, or the connection's end overtakes it.
        ("good.pem", {}, "a", "sslmode=require&sslcert={other}", "tls_failed or 08003"),
        (
            "good.pem",
            {"ssl_max_protocol_version": "TLSv1.2"},
            "postgres",
            "sslmode=require&ssl_min_protocol_version=TLSv1.3",
            "tls_failed",
        ),
        ("good.pem", {"ssl": "off"}, "postgres", "sslmode=require", "no_tls"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_way_out(
    server: Server, tmp_path: Path, shown: str, settings: dict[str, str], login: str, parameters: str, cause: str
):
    server.shows(shown, **{"ssl": "on", "ssl_max_protocol_version": ""} | settings)
    done = server.status(parameters, tmp_path, login)
    assert done.err in {
        f"notifierd: the database is unreachable (database_unavailable:{one}): {advice(one)}\n"
        for one in cause.split(" or ")
    }
    assert (done.code, done.out) == (3, "")
