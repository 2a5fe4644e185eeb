"""Proxies of Debian: tinyproxy and squid, with a user and a password, each in a network of the tests."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.support.processes import until
from tests.system.island import Island, network_of

ADDRESS, PORT = "10.0.0.9", 3128
USER, PASSWORD = "proxyuser-of-the-tests", "password-of-the-proxy"
IN_URL: Final = "proxyuser-of-the-tests:%70assword-of-the-proxy@"

TINYPROXY: Final = """
Port {port}
Listen {address}
Timeout 60
MaxClients 200
BasicAuth {user} {password}
ConnectPort {allowed}
LogFile "{folder}/log"
LogLevel Connect
"""
SQUID: Final = """
http_port {address}:{port}
dns_nameservers 127.0.0.1
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/users
auth_param basic children 1
acl known proxy_auth REQUIRED
acl allowed port {allowed}
http_access deny !known
http_access deny !allowed
http_access allow known
cache deny all
access_log stdio:{folder}/log
cache_log {folder}/messages
pid_filename {folder}/pid
coredump_dir {folder}
shutdown_lifetime 0 seconds
"""


@frozen
class Proxy:
    """A running proxy.

    Attributes:
        tunnels: how its log names a tunnel that it opened.
    """

    process: "subprocess.Popen[bytes]"
    folder: Path
    tunnels: str

    def asked(self, host: str) -> bool:
        """Whether it opened a tunnel to *host*."""
        return any(self.tunnels in line and host in line for line in (self.folder / "log").read_text().splitlines())


def _command(name: str, folder: Path, allowed: int) -> Sequence[str]:
    """Write what the proxy reads; return how it is started."""
    words = {"address": ADDRESS, "port": PORT, "user": USER, "password": PASSWORD, "folder": folder, "allowed": allowed}
    config = folder / "config"
    if name == "tinyproxy":
        config.write_text(TINYPROXY.format(**words))
        return ["tinyproxy", "-d", "-c", str(config)]
    config.write_text(SQUID.format(**words))
    hashed = ["openssl", "passwd", "-apr1", PASSWORD]
    secret = subprocess.run(hashed, check=True, capture_output=True, text=True).stdout
    (folder / "users").write_text(f"{USER}:{secret}")
    return ["squid", "-N", "-f", str(config)]


@contextmanager
def running_proxy(name: str, island: Island, folder: Path, *, allowed: int = 443) -> Iterator[Proxy]:
    """Run the proxy in *island* for the block; it opens tunnels to the port *allowed* only.

    Args:
        folder: made for it; squid works as a user of its own, and must be able to read it.
    """
    folder.mkdir()
    folder.chmod(0o777)
    command = _command(name, folder, allowed)
    (folder / "log").touch()
    (folder / "log").chmod(0o666)
    there = ["nsenter", "--net", "--mount", f"--target={island.pid}", "--", "setpriv", "--pdeathsig=KILL"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*there, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    with process:
        try:
            until(lambda: process.poll() is not None or _listens(island), name)
            assert process.poll() is None, (folder / "output").read_text()
            yield Proxy(process, folder, "Established connection to host" if name == "tinyproxy" else "TCP_TUNNEL/200")
        finally:
            process.kill()


def _listens(island: Island) -> bool:
    with network_of(island.pid):
        found = subprocess.run(["ss", "-Hltn", f"sport = :{PORT}"], check=True, capture_output=True, text=True).stdout
    return bool(found)
