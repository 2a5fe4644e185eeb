"""The guard for endpoints, on the whole program: hostile devices in a real database, and every connection seen.

``notifierd once`` runs in a network where every address leads to this machine, with a name server and push services of
the tests, under strace(1), which sees each connection that is tried, whatever becomes of it. What was pushed arrived
over TLS at a public address, so that the connections that are not there are no accident of the network.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import evolve, frozen

from notifierd.config.settings import PushSettings
from tests.support.hostile import INSIDE, PRIVATE_HOSTS, REFUSED
from tests.support.processes import DAY, Place, ended, invent, running
from tests.system.island import Island, an_island, tcp_connects
from tests.system.names import Asked, Zone, name_server
from tests.system.push_services import PushServices, Request, serving

FILES = {
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.0.0.7 hosts-file.push.apple.com\n",
    "/etc/resolv.conf": "nameserver 127.0.0.1\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

PUBLIC: Zone = {
    "fcm.googleapis.com": [["142.250.0.1"]],
    "web.push.apple.com": [["2620:149::1"]],
    "wns2-a.notify.windows.com": [["40.90.0.1"]],
    "updates.push.services.mozilla.com": [["34.107.0.1"]],
    "forged.push.apple.com": [["17.0.0.66"]],
}
CHANGING: Zone = {
    "rebinding.push.apple.com": [["17.0.0.1"], ["127.0.0.1"]],
    "rebinding-back.push.apple.com": [["127.0.0.1"], ["17.0.0.2"]],
}
REDIRECTS = {
    "/301": (301, "https://127.0.0.1/inside"),
    "/302": (302, "http://169.254.169.254/latest/meta-data/"),
    "/303": (303, "https://[::1]/inside"),
    "/307": (307, "https://loopback.push.apple.com/inside"),
    "/308": (308, "https://web.push.apple.com/elsewhere"),
}

PROXIED = dict.fromkeys(
    ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:3128"
)


@frozen
class World:
    """The island with what is on it."""

    island: Island
    place: Place
    services: PushServices
    asked: Asked

    def push(
        self, endpoints: Sequence[str], push: Mapping[str, object] | None = None, *, seconds: int = 60
    ) -> tuple[dict[str, tuple[str, str]], Counter[tuple[str, int]]]:
        """Make a run that pushes to a device at each of *endpoints*.

        Returns how each delivery ended, and why; and the TCP connections that were tried.
        """
        rows = invent(1, staff=len(endpoints), push_url="https://push.example")
        wants = {"system_notification": True, "email_notification": False}
        devices = [evolve(device, endpoint=url) for device, url in zip(rows.devices, endpoints, strict=True)]
        staff = [evolve(one, preferences=wants) for one in rows.staff]
        self.place.load(evolve(rows, devices=tuple(devices), staff=tuple(staff)))
        defaults = {"allowed_hosts": list(PushSettings().allowed_hosts), "allow_private_addresses": False}
        self.place.configure(push={**defaults, **(push or {})}, limits={"attempts": 1})
        trace = self.place.folder / "connects"
        command = ("once", "--force", "--day", str(DAY), "--json", "--for", str(seconds))
        watched = self.island.watched(self.place.folder, trace)
        environ = {**PROXIED, "SSL_CERT_FILE": str(self.services.authority)}
        with running(*command, cwd=self.place.folder, environ=environ, by=watched) as process:
            done = ended(process)
        assert done.report["email"]["planned"] == 0
        assert not [url for url in endpoints if url in done.out + done.err]
        lines = self.place.sql("select device_id, state, reason from notifierd.deliveries").splitlines()
        became = {key: (state, reason) for key, state, reason in (line.split("|") for line in lines)}
        return {device.endpoint: became[str(device.id)] for device in devices}, Counter(tcp_connects(trace))


@pytest.fixture
def world(place: Place, tmp_path: Path) -> Iterator[World]:
    zone = {**PUBLIC, **CHANGING, **{name: [addresses] for name, addresses in INSIDE.items()}}
    services = PushServices(tmp_path, forgers=["17.0.0.66"], redirects=REDIRECTS)
    files = {}
    for number, (path, text) in enumerate(FILES.items()):
        files[Path(path)] = tmp_path / f"file-{number}"
        files[Path(path)].write_text(text)
    with ExitStack() as stack:
        island = stack.enter_context(an_island(files))
        with island.network():
            asked = stack.enter_context(name_server(zone))
            stack.enter_context(serving(services))
        yield World(island, place, services, asked)


def test_nothing_connects_to_what_is_no_push_service(world: World) -> None:
    """With the configuration as it is shipped, and push services among them, which get their pushes."""
    addresses = {
        "fcm.googleapis.com": "142.250.0.1",
        "web.push.apple.com": "2620:149::1",
        "wns2-a.notify.windows.com": "40.90.0.1",
        "rebinding.push.apple.com": "17.0.0.1",
    }
    mozilla, its_address = "updates.push.services.mozilla.com", "34.107.0.1"
    expected = {
        **{url: ("failed", f"endpoint_refused:{why}") for url, why in REFUSED.items()},
        **{f"https://{name}/x": ("failed", "endpoint_refused:private_address") for name in INSIDE},
        "https://hosts-file.push.apple.com/x": ("failed", "endpoint_refused:private_address"),
        "https://rebinding-back.push.apple.com/x": ("failed", "endpoint_refused:private_address"),
        "https://unknown.push.apple.com/x": ("failed", "host_not_found"),
        **{
            f"https://{mozilla}{path}": ("expired", f"window_ended (refused:{status})")
            for path, (status, _) in REDIRECTS.items()
        },
        **{f"https://{host}/ok": ("sent", "") for host in addresses},
    }
    became, connects = world.push(list(expected), seconds=15)
    assert became == expected
    assert len(expected) - len(addresses) - len(REDIRECTS) > 40
    redirected = connects.pop((its_address, 443))  # each of them is tried again until the time is over
    assert redirected >= len(REDIRECTS)
    assert connects == {(address, 443): 1 for address in addresses.values()}
    assert Counter((address, 443) for address in world.services.connected) == connects + Counter(
        {(its_address, 443): redirected}
    )
    arrived = {Request(address, host, host, "/ok", "vapid") for host, address in addresses.items()}
    arrived |= {Request(its_address, mozilla, mozilla, path, "vapid") for path in REDIRECTS}
    assert set(world.services.requests) == arrived
    assert len(world.services.requests) == len(addresses) + redirected
    once = {*addresses, *INSIDE, "rebinding-back.push.apple.com", "unknown.push.apple.com"}
    times = dict.fromkeys(once, 1) | {mozilla: redirected}
    assert world.asked == {(name, kind): number for name, number in times.items() for kind in ("A", "AAAA")}


def test_nothing_connects_to_a_private_address_though_its_host_is_allowed(world: World) -> None:
    hosts = [*{host.lower(): host for host in (*PRIVATE_HOSTS, "localhost", "ip6-localhost")}.values()]
    expected = {f"https://{host}/x": ("failed", "endpoint_refused:private_address") for host in hosts}
    became, connects = world.push(list(expected), {"allowed_hosts": [host.lower() for host in hosts]})
    assert became == expected
    assert len(expected) > 40
    assert (connects, world.services.connected, world.asked) == ({}, [], {})


def test_without_the_guard_these_endpoints_are_connected_to(world: World) -> None:
    """Which shows that the network and the count are good for something. One of them even has a certificate."""
    inside = {
        "https://2130706433/x": "127.0.0.1",
        "https://10.0.0.1/x": "10.0.0.1",
        "https://169.254.169.254/x": "169.254.169.254",
        "https://[::1]/x": "::1",
        "https://[fd00:ec2::254]/x": "fd00:ec2::254",
        "https://loopback.push.apple.com/x": "127.0.0.1",
    }
    hosts = [url.split("/")[2] for url in inside]
    became, connects = world.push(list(inside), {"allowed_hosts": hosts, "allow_private_addresses": True}, seconds=3)
    name = "loopback.push.apple.com"
    unproved = dict.fromkeys(inside, ("expired", "window_ended (certificate_name)"))
    assert became == unproved | {f"https://{name}/x": ("sent", "")}
    assert {address for address, _ in connects} == set(inside.values()) == set(world.services.connected)
    assert world.services.requests == [Request("127.0.0.1", name, name, "/x", "vapid")]


def test_a_server_that_cannot_prove_its_name_is_told_nothing(world: World) -> None:
    became, connects = world.push(["https://forged.push.apple.com/x"], seconds=3)
    assert became == {"https://forged.push.apple.com/x": ("expired", "window_ended (certificate_name)")}
    assert connects.keys() == {("17.0.0.66", 443)}
    assert (set(world.services.connected), world.services.requests) == ({"17.0.0.66"}, [])
