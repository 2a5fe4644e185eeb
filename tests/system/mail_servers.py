"""Debian's Postfix, unpacked and not installed, with a queue of its own: it accepts mails and discards them."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from attrs import frozen

from tests.support.certificates import certificate
from tests.support.processes import until

UNKNOWN, BUSY, BANNED = "unknown@example.jp", "busy@example.jp", "banned@example.jp"
MOST_BYTES = 100_000
USERNAME, PASSWORD = "notifierd", "a password of the tests"

MAIN: Final = """
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_owner = news
setgid_group = games
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.jp
mydestination =
alias_maps =
mynetworks = 127.0.0.0/8
default_transport = discard:
local_transport = discard:
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access inline:{{{{{unknown}=550 5.1.1 no}}, {{{busy}=450 4.2.1 no}}}}
smtpd_sender_restrictions = check_sender_access inline:{{{{{banned}=553 5.7.1 not owned by user}}}}
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/server.pem
smtpd_tls_key_file = {folder}/server.pem
message_size_limit = {most}
in_flow_delay = 0
enable_long_queue_ids = yes
smtpd_sasl_local_domain = $myhostname
"""

SERVICES: Final = """
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
127.0.0.1:{login_port} inet n - n - - smtpd {login}
127.0.0.1:{old_login_port} inet n - n - - smtpd {login} -o smtpd_sasl_path=old
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

PORTS = ("port", "tls_port", "login_port", "old_login_port")

LOGIN = (
    "-o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes"
    " -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"
)
MECHANISMS = {"smtpd": "PLAIN LOGIN", "old": "LOGIN"}
"""The mechanisms of AUTH, by the file of Cyrus SASL that names them."""

SASL: Final = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb2
mech_list: {mechanisms}
"""

PRIVATE = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")
SHARED = ("maildrop", "public")


@frozen
class Postfix:
    """A running Postfix.

    Attributes:
        certificate: of its server, which signs itself.
        port: on 127.0.0.1, with STARTTLS.
        tls_port: with TLS from the begin.
        login_port: with STARTTLS, and a login by PLAIN or LOGIN, without which nothing is accepted.
        old_login_port: the same, by LOGIN only.
    """

    folder: Path
    certificate: Path
    port: int
    tls_port: int
    login_port: int
    old_login_port: int

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def sent(self) -> list[str]:
        """The Message-IDs of the mails that went on their way, by the ids in its queue."""
        log = self.log()
        ids = dict(re.findall(r"cleanup\[\d+\]: (\w+): message-id=(\S+)", log))
        return [ids[queued] for queued in re.findall(_SENT, log)]

    def sent_count(self) -> int:
        """How many these are."""
        return len(re.findall(_SENT, self.log()))


_SENT = r"discard\[\d+\]: (\w+): .* status=sent"


def unpacked(package: str) -> Path:
    """The folder with the files of a Debian package, fetched if it is not there."""
    folder = Path(sys.prefix) / "deb" / package
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as unfinished:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=unfinished, check=True, timeout=300)
            (deb,) = Path(unfinished).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", deb, f"{unfinished}/files"], check=True)
            Path(unfinished, "files").rename(folder)
    return folder


@contextmanager
def running_postfix() -> Iterator[Postfix]:
    """Run it in a mount namespace, in which its files lie where it was built for."""
    libraries = ":".join(str(unpacked(package) / "usr/lib") for package in ("postfix", "libsasl2-modules"))
    users = unpacked("sasl2-bin") / "usr/sbin/saslpasswd2"
    with TemporaryDirectory(prefix="notifierd-postfix-") as directory:
        folder = Path(directory)
        ports = _free_ports(PORTS)
        _lay_out(folder, ports)
        own = certificate(folder / "server.pem")
        steps = (
            f"mount -t overlay -o lowerdir={libraries}:/usr/lib overlay /usr/lib",
            f"printf %s '{PASSWORD}' | {users} -p -c -f {folder}/sasldb2 -u mail.example.jp {USERNAME}",
            f"chown news {folder}/sasldb2",
            f"exec /usr/lib/postfix/sbin/master -c {folder}/conf -d",
        )
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", " && ".join(steps)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        postfix = Postfix(folder, own, **ports)
        with process:
            try:
                until(lambda: process.poll() is not None or (folder / "log").exists(), "Postfix")
                assert process.poll() is None, (folder / "out").read_text()
                yield postfix
            finally:
                process.terminate()  # it ends its children


def _free_ports(names: Iterable[str]) -> dict[str, int]:
    with ExitStack() as stack:
        taken = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names}
        return {name: one.getsockname()[1] for name, one in taken.items()}


def _lay_out(folder: Path, ports: Mapping[str, int]) -> None:
    """Make its folders as `postfix set-permissions` does, for users that every Debian has."""
    folder.chmod(0o755)
    for name, content in {
        "conf/main.cf": MAIN.format(folder=folder, unknown=UNKNOWN, busy=BUSY, banned=BANNED, most=MOST_BYTES),
        "conf/master.cf": SERVICES.format(login=LOGIN, **ports),
        **{f"conf/sasl/{file}.conf": SASL.format(folder=folder, mechanisms=each) for file, each in MECHANISMS.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "spool/pid").mkdir(parents=True)
    subprocess.run(["install", "-d", "-o", "news", "-m", "700", folder / "data"], check=True)
    private, shared = ([folder / "spool" / name for name in names] for names in (PRIVATE, SHARED))
    subprocess.run(["install", "-d", "-o", "news", "-m", "700", *private], check=True)
    subprocess.run(["install", "-d", "-o", "news", "-g", "games", "-m", "730", *shared], check=True)
