"""What systemd/ says, held against the configuration; tests/system runs it."""

import ipaddress
from collections import defaultdict
from pathlib import Path

import pytest

from notifierd.config.keys import key_of
from notifierd.config.load import keys, variable
from notifierd.config.settings import Settings
from notifierd.send._network import is_public
from tests.support.hostile import METADATA

FOLDER = Path(__file__).parents[2] / "systemd"


def directives(name: str) -> dict[str, list[str]]:
    """Every value of each key of a unit file, in order; sections do not matter here."""
    found = defaultdict(list)
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found[key].append(value)
    return dict(found)


UNIT = directives("notifierd.service")


def test_every_secret_has_its_credential():
    secrets = [name for name, field in keys() if key_of(field).secret]
    assert UNIT["LoadCredential"] == [f"{name}:notifierd.{name}" for name in secrets]


def test_the_watchdog_is_slower_than_the_longest_step():
    settings = Settings()
    [minutes] = UNIT["WatchdogSec"]
    longest = max(settings.database.plan_timeout, settings.limits.send_timeout)
    assert int(minutes.removesuffix("min")) * 60 > longest


MULTICAST = ("224.0.0.0/4", "ff00::/8")
"""What systemd.resource-control(5) means by that word."""

DENIED = [
    ipaddress.ip_network(word)
    for line in UNIT["IPAddressDeny"]
    for words in line.split()
    for word in (MULTICAST if words == "multicast" else (words,))
]


@pytest.mark.parametrize("address", METADATA)
def test_both_the_unit_and_the_guard_for_endpoints_refuse_each_clouds_metadata(address):
    assert any(ipaddress.ip_address(address) in network for network in DENIED)
    assert not is_public(address)


@pytest.mark.parametrize("network", DENIED, ids=str)
def test_whatever_the_unit_denies_the_guard_refuses_too(network):
    """The guard also works where no unit does: `notifierd once` from a terminal."""
    assert not [address for address in (network[0], network[-1]) if is_public(str(address))]


def test_the_unit_allows_the_port_at_which_the_page_is_served():
    _host, port = Settings().http.address
    assert UNIT["SocketBindDeny"] == ["any"]
    assert UNIT["SocketBindAllow"] == [f"tcp:{port}"]


def test_a_path_that_is_not_there_keeps_no_service_from_its_start():
    """Which of them a machine has depends on its distribution."""
    assert all(path.startswith("-/") for line in UNIT["InaccessiblePaths"] for path in line.split())


def test_the_unit_of_an_instance_differs_in_what_names_it_and_in_nothing_else():
    """No instance shares the port of another one, or of the unit without instances."""
    template = directives("notifierd@.service")
    differing = {key for key in UNIT.keys() | template.keys() if UNIT.get(key) != template.get(key)}
    assert differing == {"Description", "Environment", "SocketBindAllow"}
    fault_handler, own = template["Environment"]
    assert [fault_handler] == UNIT["Environment"]
    named = dict(part.split("=") for part in own.split())
    assert named == {"NOTIFIERD_CLUSTER_NAME": "%l-%i", "NOTIFIERD_HTTP_BIND": "127.0.0.1:947%i"}
    assert template["SocketBindAllow"] == ["tcp:9471-9479"]
    assert {variable(name) for name, _ in keys()} >= named.keys()


def test_the_drop_in_for_newer_systemd_changes_how_it_reloads_and_nothing_else():
    """Read only: Debian 12's systemd knows no such type, so nothing here runs it."""
    assert directives("notify-reload.conf") == {"Type": ["notify-reload"], "ExecReload": [""]}
