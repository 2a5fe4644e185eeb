"""What [network] may hold, and which calls go through the proxy that it names."""

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config.load import load, parse
from notifierd.config.network import PROXY as PROXY_CHECK
from notifierd.config.network import Proxy, Route, numeric_address, parse_exempt, parse_proxy, read_route
from notifierd.config.settings import Settings
from notifierd.model.errors import ConfigError
from tests.support.certificates import certificate

PROXY = "http://proxy.example.jp:3128"


def problems(network: dict[str, Any], environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse({"network": network}, environ or {}, Path())
    return caught.value.problems


def is_direct(host: str, port: int, *no_proxy: str) -> bool:
    return read_route(PROXY, no_proxy, {}).proxy_for(host, port) is None


# ------------------------------------------------------------------------------------------------------------ the proxy


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        (PROXY, Proxy("proxy.example.jp", 3128), PROXY),
        ("HTTP://10.0.0.1:80/", Proxy("10.0.0.1", 80), "http://10.0.0.1:80"),
        ("http://[fd00::1]:3128", Proxy("fd00::1", 3128), "http://[fd00::1]:3128"),
        ("http://u:p@proxy:1", Proxy("proxy", 1, "Basic dTpw"), "http://proxy:1"),
        ("http://u@proxy:1", Proxy("proxy", 1, "Basic dTo="), "http://proxy:1"),
        ("http://a%40b:c%3Ad%25@proxy:1", Proxy("proxy", 1, "Basic YUBiOmM6ZCU="), "http://proxy:1"),
        ("http://u:é@proxy:1", Proxy("proxy", 1, "Basic dTrDqQ=="), "http://proxy:1"),
        ("http://u:%E3%81%82@proxy:1", Proxy("proxy", 1, "Basic dTrjgYI="), "http://proxy:1"),
    ],
)
def test_a_proxy_is_a_url_with_percent_encoded_credentials(text: str, expected: Proxy, shown: str):
    assert parse_proxy(text) == expected
    assert str(parse_proxy(text)) == shown
    assert parse({"network": {"proxy": text}}, {}).network.proxy == text


FORM = "is not of the form http://user:password@host:port (user and password are optional and percent-encoded)"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("proxy.example.jp:3128", FORM),
        ("http://hush:hush", FORM),
        ("http://hush@hush@proxy:1", FORM),
        ("http://hush:hu sh@proxy:1", FORM),
        ("http://hush:hush@proxy", FORM),
        ("http://hush:hush@proxy:1/path", FORM),
        ("http://hush:hush@proxy:1?x", FORM),
        ("http://hush:hush@-..:1", FORM),
        ("Environment", FORM),
        ("https://hush:hush@proxy:1", "has the scheme https:// (only http:// is supported)"),
        ("socks5://hush:hush@proxy:1", "has the scheme socks5:// (only http:// is supported)"),
        ("http://hush:hush@proxy:0", "has no valid host and port"),
        ("http://hush:hush@proxy:65536", "has no valid host and port"),
        ("http://hush:hush@[::1::]:1", "has no valid host and port"),
        ("http://hu%3Ash:hush@proxy:1", "has a colon in the user's name, or a control character (RFC 7617, section 2)"),
        ("http://hush:hu%0Ash@proxy:1", "has a colon in the user's name, or a control character (RFC 7617, section 2)"),
    ],
)
def test_what_is_no_proxy_is_named_and_not_repeated(text: str, why: str):
    assert problems({"proxy": text}) == (f"network.proxy: the value {why}",)
    if not text.startswith(("proxy", "Env")):
        where = {"network": {"proxy": "environment"}}
        with pytest.raises(ConfigError) as caught:
            parse(where, {"HTTPS_PROXY": text}, Path())
        assert caught.value.problems == (f"network.proxy: the value {why}, from HTTPS_PROXY",)


@given(st.text())
def test_any_text_is_a_proxy_or_an_error_without_it(text: str):
    if complaint := PROXY_CHECK.problem(text, secret=True):
        assert len(text) < 6 or text not in complaint
    elif text not in {"", "environment"}:
        assert re.fullmatch(r"(Basic [A-Za-z0-9+/=]+)?", parse_proxy(text).authorization)


def test_no_credential_is_shown():
    settings = parse({"network": {"proxy": "http://hushuser:hushword@proxy:1"}}, {})
    route = read_route(settings.network.proxy, (), {})
    for shown in (repr(settings), repr(route), str(route.proxy)):
        assert "hush" not in shown
        assert "Basic" not in shown


@pytest.mark.parametrize(
    ("environ", "proxy", "origin"),
    [
        ({}, None, ""),
        ({"HTTPS_PROXY": ""}, None, ""),
        ({"HTTPS_PROXY": PROXY}, PROXY, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://other:1", "https_proxy": f"{PROXY}/"}, PROXY, "https_proxy"),
        ({"HTTPS_PROXY": " proxy.example.jp:3128 "}, PROXY, "HTTPS_PROXY"),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY, "all_proxy": PROXY}, None, ""),
    ],
)
def test_the_environments_proxy_applies_if_the_key_says_so(environ: dict[str, str], proxy: str | None, origin: str):
    route = read_route("environment", (), environ)
    assert (route.proxy and str(route.proxy), route.origin) == (proxy, origin)
    assert read_route("", (), environ) == Route()


def test_both_the_key_and_the_variable_say_what_is_called_directly():
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.example, .b.example\t10.0.0.0/8,,/run/x.sock,c.example:8443"}
    route = read_route("environment", ("d.example",), environ)
    direct = ["a.example", "x.a.example", "x.b.example", "10.1.2.3", "d.example"]
    assert [host for host in direct if route.proxy_for(host, 443)] == []
    assert [host for host in ("b.example", "xa.example", "x.d.example", "c.example") if route.proxy_for(host, 443)] == [
        "b.example",
        "xa.example",
        "x.d.example",
        "c.example",
    ]
    assert route.proxy_for("c.example", 8443) is route.proxy_for("x.c.example", 8443) is None
    lower = read_route("environment", (), {**environ, "no_proxy": "*"})
    assert lower.proxy_for("anything.example", 443) is None


# ---------------------------------------------------------------------------------------------- what is called directly


@pytest.mark.parametrize(
    ("entry", "covered", "others"),
    [
        ("hooks.example.jp", ["hooks.example.jp", "HOOKS.example.jp."], ["a.hooks.example.jp", "xhooks.example.jp"]),
        ("Hooks.Example.JP.", ["hooks.example.jp"], ["hooks.example"]),
        (".example.jp", ["a.example.jp", "a.b.example.jp"], ["example.jp", "xexample.jp", "example.jp.evil"]),
        ("*.example.jp", ["a.example.jp", "a.b.example.jp"], ["example.jp", "xexample.jp"]),
        ("10.0.0.1", ["10.0.0.1", "::ffff:10.0.0.1", "10.1"], ["10.0.0.2", "10.0.0.10"]),
        ("10.0.0.0/8", ["10.0.0.1", "10.255.255.255"], ["11.0.0.1", "10.example"]),
        ("10.0.0.7/8", ["10.9.9.9"], ["11.0.0.1"]),
        ("fd00::/8", ["fd00::1", "[fdff::1]"], ["fe80::1", "10.0.0.1"]),
        ("[2001:DB8::1]", ["2001:db8::1", "2001:db8:0::0:1"], ["2001:db8::2"]),
        ("2001:db8::1", ["2001:db8::1"], ["2001:db8::2"]),
        ("*", ["anything.example", "10.0.0.1", "::2"], []),
    ],
)
def test_an_entry_means_what_it_says(entry: str, covered: list[str], others: list[str]):
    assert [host for host in covered if not is_direct(host, 443, entry)] == []
    assert [host for host in others if is_direct(host, 443, entry)] == []


@pytest.mark.parametrize("entry", ["a.example:8443", ".example:8443", "192.0.2.1:8443", "[2001:db8::1]:8443"])
def test_a_port_restricts_an_entry(entry: str):
    host = {"a": "a.example", ".": "a.example", "1": "192.0.2.1", "[": "2001:db8::1"}[entry[0]]
    assert is_direct(host, 8443, entry)
    assert not is_direct(host, 443, entry)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.1", "::1"])
def test_loopback_is_always_called_directly(host: str):
    assert is_direct(host, 443)


@pytest.mark.parametrize("host", ["xlocalhost", "localhost.example", "128.0.0.1", "127.example", "0.0.0.1", "::2"])
def test_nothing_else_is_by_itself(host: str):
    assert not is_direct(host, 443)


@pytest.mark.parametrize(
    "entry",
    [
        *("", "https://a.example", "a.example/", "a b", "a..example", ".", "*.", "**.example", "a*.example"),
        *("10.0.0.256", "10.0.0.0/33", "10.0.0.0/8:80", "10.0", "[::1", "::1]:80x", "fd00::/129", "例え.jp"),
        *("a.example:0", "a.example:65536", "a.example:", "a.example:-1", "user@a.example", "a" * 64),
    ],
)
def test_what_is_no_entry_is_a_mistake(entry: str):
    (problem,) = problems({"no_proxy": ["a.example", entry]})
    assert problem.startswith(f'network.no_proxy: "{entry[:20]}')
    assert " is not a host, .suffix, an address or a network such as 10.0.0.0/8" in problem


LABELS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
PORTS = st.integers(1, 65535)


def shuffled_case(text: str, bits: int) -> str:
    return "".join(c.upper() if bits >> n & 1 else c for n, c in enumerate(text))


@given(NAMES, NAMES, PORTS, st.integers(0, 2**40), st.booleans())
def test_a_name_is_a_host_and_a_suffix_what_is_below_it(name: str, below: str, port: int, bits: int, rooted: bool):
    """Whatever the case, and with or without the dot of the root."""
    if name.endswith("localhost"):
        return
    host = shuffled_case(name, bits) + "." * rooted
    assert is_direct(host, port, name)
    assert not is_direct(f"{below}.{host}", port, name)
    for suffix in (f".{name}", f"*.{name}"):
        assert not is_direct(host, port, suffix)
        assert not is_direct(f"{below}{host}", port, suffix)
        assert is_direct(f"{below}.{host}", port, suffix)


@given(V4 | V6, st.data())
def test_a_network_covers_its_addresses_and_no_other(address: Any, data: st.DataObject):
    network = ipaddress.ip_network((address, data.draw(st.integers(1, address.max_prefixlen))), strict=False)
    other = data.draw(V4 if address.version == 4 else V6)
    plain = getattr(other, "ipv4_mapped", None) or other
    expected = plain in network or plain.is_loopback
    assert is_direct(str(other), 443, str(network)) == expected
    if getattr(address, "ipv4_mapped", None) is None:
        assert is_direct(str(address), 443, str(network))
        assert is_direct(f"[{address}]" if address.version == 6 else str(address), 443, str(address))


@given(NAMES | V4.map(str) | V6.map(lambda address: f"[{address}]"), PORTS, PORTS)
def test_a_port_is_compared(host: str, port: int, other: int):
    route = read_route(PROXY, (f"{host}:{port}",), {})
    plain = Route(route.proxy)
    assert route.proxy_for(host, port) is None
    assert route.proxy_for(host, other) is (None if other == port else plain.proxy_for(host, other))


@given(st.text(), st.text() | NAMES, PORTS)
def test_any_text_can_be_an_entry_or_a_host(entry: str, host: str, port: int):
    numeric_address(host)
    try:
        exempt = parse_exempt(entry)
    except ValueError:
        return
    exempt.covers(host, port)


# --------------------------------------------------------------------------------------------------------- certificates


def test_the_file_of_certificates_is_read_from_the_files_folder(tmp_path: Path):
    certificate(tmp_path / "ca.pem")
    (tmp_path / "config.toml").write_text('network.ca_file = "ca.pem"')
    assert load(tmp_path / "config.toml", {}).network.ca_file == str(tmp_path / "ca.pem")
    assert Settings().network.ca_file == ""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "holds no certificate in PEM"),
        (b"not a certificate", "holds no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate in PEM"),
        (b"\xff\xfe\x00", "holds no certificate in PEM"),
    ],
)
def test_a_file_without_certificates_is_a_mistake(tmp_path: Path, content: bytes | None, why: str):
    path = tmp_path / "c"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems({"ca_file": str(path)})
    assert problem.startswith('network.ca_file: "/')
    assert problem.endswith(why)


def test_a_key_alone_a_folder_a_device_and_no_path_are_mistakes(tmp_path: Path):
    whole = certificate(tmp_path / "whole.pem").read_text()
    (tmp_path / "key.pem").write_text(whole.partition("-----BEGIN CERTIFICATE")[0])
    assert problems({"ca_file": str(tmp_path / "key.pem")})[0].endswith("holds no certificate in PEM")
    assert problems({"ca_file": str(tmp_path)})[0].endswith("is not a file")
    assert problems({"ca_file": "/dev/zero"}) == ('network.ca_file: "/dev/zero" is not a file',)
    assert problems({"ca_file": "a\0b"}) == ('network.ca_file: "a\\u0000b" is not a path',)
