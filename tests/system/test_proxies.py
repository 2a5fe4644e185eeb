"""The whole program behind a company's proxy: real proxies, and every connection seen.

``notifierd once`` runs in a network where every address leads to this machine, under strace(1), which sees each
connection that is tried. Its servers have certificates of a private authority.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from attrs import evolve, frozen

from notifierd.config.settings import PushSettings
from tests.support.daemon_process import OPEN, TODAY
from tests.support.google_api import account_json
from tests.support.processes import Done, Place, ended, invent, running, until
from tests.system.island import Island, an_island, tcp_connects
from tests.system.names import Asked, Zone, name_server
from tests.system.proxies import ADDRESS, IN_URL, PASSWORD, PORT, USER, Proxy, running_proxy
from tests.system.push_services import PushServices, serving

FILES = {
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/resolv.conf": "nameserver 127.0.0.1\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
ZONE: Zone = {
    "api.resend.com": [["104.18.0.1"]],
    "gmail.googleapis.com": [["142.250.0.2"]],
    "oauth2.googleapis.com": [["142.250.0.3"]],
    "web.push.apple.com": [["17.0.0.1"]],
    "hooks.example.jp": [["93.184.0.1"]],
}
OTHERS = {
    "api.resend.com": '{"id": "id-1"}',
    "gmail.googleapis.com": '{"id": "id-1", "labelIds": ["SENT"]}',
    "oauth2.googleapis.com": '{"access_token": "t1", "expires_in": 3599}',
    "hooks.example.jp": "{}",
}
ENDPOINT = "https://web.push.apple.com/x"
URL = f"http://{IN_URL}{ADDRESS}:{PORT}"


@frozen
class World:
    """The network with what is in it."""

    island: Island
    place: Place
    services: PushServices
    asked: Asked
    folder: Path

    def configure(self, proxy: str, provider: str = "resend") -> None:
        """One office with two members of staff: one gets a push, the other a mail; and one device that is refused."""
        rows = invent(1, staff=3, push_url="https://push.example", day=TODAY)
        endpoints = (ENDPOINT, "https://evil.example/x", "https://evil.example/y")
        devices = [evolve(device, endpoint=url) for device, url in zip(rows.devices, endpoints, strict=True)]
        mails = {"system_notification": False, "email_notification": True}
        pushes = {"system_notification": True, "email_notification": False}
        wants = (pushes, pushes, mails)
        staff = [evolve(one, preferences=each) for one, each in zip(rows.staff, wants, strict=True)]
        self.place.load(evolve(rows, devices=tuple(devices), staff=tuple(staff)))
        defaults = {"allowed_hosts": list(PushSettings().allowed_hosts), "allow_private_addresses": False}
        self.place.configure(
            window=OPEN,
            network={"proxy": proxy, "ca_file": str(self.services.authority)},
            email={"provider": provider},
            **{
                "email.resend": {"base_url": "https://api.resend.com"},
                "email.gmail": {"service_account": account_json(), "user": "desk@example.jp"},
            },
            push=defaults,
            watch={
                "webhook_url": "https://hooks.example.jp/hook",
                "ping_url": "https://hooks.example.jp/ping",
                "failure_ratio": 0,
            },
        )

    @contextmanager
    def once(self, seconds: int = 60) -> "Iterator[list[Done]]":
        """Start a run; at the end of the block it is waited for, and in the list."""
        command = ("once", "--force", "--json", "--for", str(seconds))
        watched = self.island.watched(self.place.folder, self.place.folder / "connects")
        done: list[Done] = []
        with running(*command, cwd=self.place.folder, by=watched) as process:
            yield done
            done.append(ended(process))
        said = done[0].out + done[0].err
        assert [secret for secret in (USER, PASSWORD, IN_URL, ENDPOINT) if secret in said] == []

    def connects(self) -> Counter[tuple[str, int]]:
        """The TCP connections that the run tried."""
        return Counter(tcp_connects(self.place.folder / "connects"))

    def outcomes(self) -> list[str]:
        """The states of the deliveries that were tried, with their reasons."""
        lines = self.place.sql("select channel, state, reason from notifierd.deliveries order by 1, 2, 3").splitlines()
        return [line.rstrip("|") for line in lines if "endpoint_refused" not in line]

    def proxy(self, name: str, *, allowed: int = 443) -> AbstractContextManager[Proxy]:
        """Run a proxy for the block."""
        return running_proxy(name, self.island, self.folder / name, allowed=allowed)


@pytest.fixture
def world(place: Place, tmp_path: Path) -> Iterator[World]:
    services = PushServices(tmp_path, others=OTHERS)
    files = {}
    for number, (path, text) in enumerate(FILES.items()):
        files[Path(path)] = tmp_path / f"file-{number}"
        files[Path(path)].write_text(text)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="notifierd-proxy-")))
        folder.chmod(0o755)  # squid works as a user of its own
        island = stack.enter_context(an_island(files))
        with island.network():
            asked = stack.enter_context(name_server(ZONE))
            stack.enter_context(serving(services))
        yield World(island, place, services, asked, folder)


@pytest.mark.parametrize("name", ["tinyproxy", "squid"])
@pytest.mark.parametrize("provider", ["resend", "gmail"])
def test_everything_goes_through_the_proxy(world: World, name: str, provider: str) -> None:
    """Counted here, where each connection begins, and at the servers, where it arrives."""
    world.configure(URL, provider)
    with world.proxy(name) as proxy:
        with world.once() as done:
            pass
        mail = {"resend": ["api.resend.com"], "gmail": ["gmail.googleapis.com", "oauth2.googleapis.com"]}[provider]
        hosts = [*mail, "web.push.apple.com", "hooks.example.jp"]
        assert done[0].code == 1, done[0].err  # for the device that is refused
        assert [host for host in hosts if not proxy.asked(host)] == []
    assert world.outcomes() == ["email|sent", "push|sent"]
    assert {request.host for request in world.services.requests} == set(hosts)
    targets = [request.target for request in world.services.requests if request.host == "hooks.example.jp"]
    assert sorted({target.partition("?")[0] for target in targets}) == ["/hook", "/ping/fail", "/ping/start"]
    connects = world.connects()
    assert connects == {(ADDRESS, PORT): len(world.services.connected)}
    assert {host for host, _ in world.asked} >= set(hosts)  # and what squid asks of itself


@pytest.mark.parametrize("name", ["tinyproxy", "squid"])
@pytest.mark.parametrize(
    ("user", "allowed", "reason"),
    [
        ("", 443, "proxy_auth_required"),
        (f"{USER}:wrong@", 443, "proxy_auth_required"),
        (IN_URL, 444, "proxy_refused:403"),
    ],
    ids=["anonymous", "wrong", "forbidden"],
)
def test_a_proxy_that_refuses_loses_nothing(world: World, name: str, user: str, allowed: int, reason: str) -> None:
    world.configure(f"http://{user}{ADDRESS}:{PORT}")
    with world.proxy(name, allowed=allowed), world.once(4) as done:
        pass
    assert world.outcomes() == [f"{channel}|expired|window_ended ({reason})" for channel in ("email", "push")]
    assert ("sender_blocked" in done[0].err) == (reason == "proxy_auth_required")
    assert world.connects().keys() == {(ADDRESS, PORT)}
    assert world.services.connected == []


def test_a_proxy_that_is_down_loses_nothing(world: World) -> None:
    world.configure(URL)
    with world.once(4):
        pass
    assert world.outcomes() == [f"{c}|expired|window_ended (proxy_unreachable)" for c in ("email", "push")]
    assert world.connects().keys() == {(ADDRESS, PORT)}


@pytest.mark.parametrize("is_killed", [False, True], ids=["hangs", "killed"])
def test_a_proxy_that_hangs_or_is_killed_while_it_is_asked_loses_nothing(world: World, is_killed: bool) -> None:
    world.configure(URL)
    with world.proxy("tinyproxy") as proxy:
        proxy.process.send_signal(signal.SIGSTOP)
        with world.once(8 if is_killed else 14):
            if is_killed:
                trace = world.place.folder / "connects"
                until(lambda: trace.exists() and (ADDRESS, PORT) in tcp_connects(trace), "a connection")
                proxy.process.kill()
        with suppress(ProcessLookupError):
            proxy.process.send_signal(signal.SIGCONT)
    outcomes = world.outcomes()
    assert len(outcomes) == 2
    reasons = ("proxy_failed", "proxy_unreachable") if is_killed else ("proxy_failed",)
    assert all(any(f"expired|window_ended ({reason})" in each for reason in reasons) for each in outcomes), outcomes
    assert world.services.connected == []


def test_what_a_proxy_opens_to_a_server_of_another_authority_is_not_used(world: World) -> None:
    """A proxy that inspects TLS, whose authority is not known."""
    world.configure(URL)
    config = world.place.folder / "config.toml"
    config.write_text(config.read_text().replace("ca_file", "# ca_file"))
    with world.proxy("tinyproxy"), world.once(4):
        pass
    assert world.outcomes() == [f"{c}|expired|window_ended (certificate_untrusted)" for c in ("email", "push")]
    assert world.services.requests == []
