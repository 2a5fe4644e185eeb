"""Compressed answers: unpacked within a bound, however they are cut, damaged, stacked or named."""

import gzip
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.send._unpack import MOST_MEMBERS, PIECE, unpack

BOUND = 1024 * 1024


def gz(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


BODY = b'{"data": [{"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}]}' * 100
LONG = os.urandom(5000)
RAW = zlib.compressobj(wbits=-15)
DEFLATED = RAW.compress(BODY) + RAW.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gz(BODY), "gzip"),
        (gz(BODY), " GZip "),
        (gz(BODY), "x-gzip"),
        (gz(BODY), "identity, gzip,"),
        (gz(gz(BODY)), "gzip, gzip"),
        (gz(zlib.compress(BODY)), "deflate, gzip"),
        (gz(BODY[:70]) + gz(BODY[70:]), "gzip"),
        (zlib.compress(BODY), "deflate"),
        (DEFLATED, "deflate"),
        (gz(BODY) + b"\r\nwhat follows", "gzip"),
        (gz(BODY)[:-8], "gzip"),
        (gz(BODY)[:-8] + b"sumsizes", "gzip"),
        (gz(BODY)[:-3], "gzip"),
        (zlib.compress(BODY)[:-4], "deflate"),
        (zlib.compress(BODY)[:-4] + b"sums", "deflate"),
    ],
    ids=range(15),
)
def test_gzip_and_deflate_are_unpacked_with_and_without_a_right_end(body: bytes, coding: str) -> None:
    assert unpack(body, coding, BOUND) == BODY


@pytest.mark.parametrize(
    "coding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip, gzip, gzip", "", "\x00", "gzip;q=1"]
)
def test_a_coding_that_is_not_known_leaves_a_body_as_it_came(coding: str) -> None:
    body = gz(BODY)
    assert unpack(body, coding, BOUND) == body


@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, gzip"])
def test_a_body_that_is_not_in_its_coding_is_left_as_it_came(coding: str) -> None:
    """A middle box that unpacks may leave the header."""
    assert unpack(BODY, coding, BOUND) == BODY
    assert unpack(b"", coding, BOUND) == b""


def test_a_body_that_is_cut_or_damaged_gives_what_came_before() -> None:
    packed = gz(LONG)
    for length in (100, PIECE, 3000):
        assert LONG.startswith(unpack(packed[:length], "gzip", BOUND))
        assert len(unpack(packed[:length], "gzip", BOUND)) > length - 50
    text = b"".join(b"%d," % number for number in range(20_000))
    packed = gz(text)
    found = unpack(packed[:-4000] + b"\xff" * 100 + packed[-3900:], "gzip", BOUND)
    assert found[: len(text) // 2] == text[: len(text) // 2]


def test_a_bomb_is_unpacked_to_the_bound_and_no_further() -> None:
    bomb = gz(bytes(200 * BOUND))
    assert len(bomb) < BOUND
    assert unpack(bomb, "gzip", BOUND) == bytes(BOUND)
    assert len(unpack(gz(bomb), "gzip, gzip", BOUND)) == BOUND
    assert len(unpack(zlib.compress(bytes(9 * BOUND)), "deflate", BOUND)) == BOUND


def test_of_many_members_some_are_unpacked() -> None:
    """Each member costs a copy of what follows it."""
    assert unpack(gz(b"a") * 1000, "gzip", BOUND) == b"a" * MOST_MEMBERS


@given(
    st.binary(max_size=300) | st.binary(max_size=300).map(gz) | st.binary(max_size=300).map(zlib.compress),
    st.lists(st.sampled_from(["gzip", "deflate", "x-gzip", "br", "identity", ""]), max_size=5),
    st.integers(0, 400),
    st.integers(1, 100),
)
def test_any_body_is_unpacked_within_its_bound(body: bytes, codings: list[str], cut: int, bound: int) -> None:
    found = unpack(body[:cut], ",".join(codings), bound)
    assert found == body[:cut] or len(found) <= bound
