"""Which certificates of servers are trusted, and the reason where one is not: real TLS on loopback."""

import hashlib
import os
import ssl
from pathlib import Path
from typing import Any

import certifi
import pytest
from attrs import frozen
from cryptography.x509 import load_pem_x509_certificate

from notifierd.config.settings import NetworkSettings
from notifierd.model.errors import ConfigError
from notifierd.model.outcome import Blame, Deferred
from notifierd.send._answers import Answer
from notifierd.send._http import open_client
from notifierd.send.route import trust
from notifierd.send.route.trust import system_store, trusted
from tests.support.certificates import certificate, over_tls
from tests.support.loopback import OK, answering, serving


@frozen
class Authority:
    """Who signs certificates for the tests."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "authority.pem"

    def sign(self, **about: Any) -> Path:
        return certificate(self.folder / "server.pem", authority=self.file, **about)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    certificate(tmp_path / "authority.pem")
    return Authority(tmp_path)


async def call(shown: Path, ca_file: Path | None = None, host: str = "127.0.0.1") -> object:
    network = NetworkSettings(ca_file=str(ca_file or ""))
    async with serving(over_tls(answering(OK), shown)) as port, open_client(width=1, network=network) as client:
        return await client.post(f"https://{host}:{port}/", b"", {})


def not_made(reason: str) -> Deferred:
    return Deferred(reason, blame=Blame.PROVIDER)


async def test_the_file_adds_to_what_is_trusted(authority: Authority) -> None:
    assert await call(authority.sign()) == not_made("certificate_untrusted")
    assert isinstance(await call(authority.sign(), authority.file), Answer)
    assert trusted(str(authority.file)).cert_store_stats()["x509"] == 1 + trusted("").cert_store_stats()["x509"]


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"days": (-9, -1)}, "certificate_expired"),
        ({"days": (2, 9)}, "certificate_not_yet_valid"),
        ({"address": "127.0.0.2", "names": ["api.example.jp"]}, "certificate_name"),
    ],
)
async def test_a_certificate_that_is_not_accepted_has_its_reason(
    authority: Authority, about: dict[str, Any], reason: str
) -> None:
    assert await call(authority.sign(**about), authority.file) == not_made(reason)


async def test_a_certificate_of_another_name_has_its_reason(authority: Authority) -> None:
    signed = authority.sign(names=["api.example.jp"])
    assert await call(signed, authority.file, host="localhost") == not_made("certificate_name")


async def test_a_certificate_that_signed_itself_is_trusted_if_the_file_has_it(tmp_path: Path) -> None:
    itself = certificate(tmp_path / "itself.pem")
    assert await call(itself) == not_made("certificate_untrusted")
    assert isinstance(await call(itself, itself), Answer)


async def test_the_file_may_have_only_the_servers_own_certificate(authority: Authority) -> None:
    """As Python 3.13 has it, and curl: a trusted certificate need not be a root."""
    signed = authority.sign()
    assert isinstance(await call(signed, signed), Answer)


# ---------------------------------------------------------------------------------------------------- the system's


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_the_system_s_certificates_are_where_openssl_has_them(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    folder = tmp_path / "hashed"
    folder.mkdir()
    (folder / f"{subject_hash(authority.file)}.0").write_bytes(authority.file.read_bytes())
    where = {"SSL_CERT_FILE": str(authority.file), "SSL_CERT_DIR": str(folder)}
    for name, place in where.items():
        monkeypatch.setenv(name, place if name == variable else str(tmp_path / "nowhere"))
    assert system_store() == where[variable]
    assert isinstance(await call(authority.sign()), Answer)


def subject_hash(pem: Path) -> str:
    """The name that OpenSSL looks for (x509_name_canon in crypto/x509/x_name.c): of the common name alone."""
    (attribute,) = load_pem_x509_certificate(pem.read_bytes()).subject
    name = str(attribute.value).lower().encode()
    encoded = b"\x06\x03\x55\x04\x03\x0c" + bytes([len(name)]) + name  # id-at-commonName, UTF8String
    for tag in (0x30, 0x31):  # SEQUENCE, SET
        encoded = bytes([tag, len(encoded)]) + encoded
    digest = hashlib.sha1(encoded).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def test_a_system_without_certificates_has_those_of_certifi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert system_store() == ""
    only = ssl.create_default_context(cafile=certifi.where())
    assert trusted("").cert_store_stats() == only.cert_store_stats()


def test_certificates_are_loaded_once_and_again_after_a_change(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.file.read_bytes())
    first = trusted(str(ca_file))
    assert trusted(str(ca_file)) is first
    other = certificate(tmp_path / "other.pem")
    ca_file.write_bytes(authority.file.read_bytes() + other.read_bytes())
    os.utime(ca_file, ns=(1, 1))
    second = trusted(str(ca_file))
    assert second.cert_store_stats()["x509"] == first.cert_store_stats()["x509"] + 1
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    assert trusted("") is not second
    assert trust.system_store() == str(other)


async def test_a_file_that_is_gone_is_a_mistake_of_the_configuration(authority: Authority) -> None:
    network = NetworkSettings(ca_file=str(authority.file))
    authority.file.unlink()
    with pytest.raises(ConfigError, match=r"network\.ca_file: .*authority\.pem cannot be read any more"):
        async with open_client(width=1, network=network):
            pass
