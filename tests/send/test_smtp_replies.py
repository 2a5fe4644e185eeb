"""Replies of a mail server, in any pieces: whole ones are read as they are, and nothing else is kept for long."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.send.smtp.replies import LINE_BYTES, REPLY_LINES, NotSmtp, Replies, Reply


def read(*pieces: bytes) -> list[Reply]:
    """All replies in *pieces*."""
    replies, found = Replies(), list[Reply]()
    for piece in pieces:
        replies.feed(piece)
        while reply := replies.next():
            found.append(reply)
    return found


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"250 2.1.0 Ok\r\n", Reply(250, ("2.1.0 Ok",))),
        (b"250\r\n", Reply(250, ("",))),
        (b"250 Ok\n", Reply(250, ("Ok",))),
        (b"250-mail\r\n250-SIZE 1\r\n250 HELP\r\n", Reply(250, ("mail", "SIZE 1", "HELP"))),
        (b"550 \xe3\x81\x82\r\n", Reply(550, ("\ufffd\ufffd\ufffd",))),
    ],
)
def test_a_reply_has_a_code_and_lines(said: bytes, reply: Reply) -> None:
    assert read(said) == [reply]
    assert "Ok" not in repr(reply)


@pytest.mark.parametrize(
    ("line", "enhanced", "codes"),
    [
        ("5.1.1 no such user", (1, 1), ("550", "5.1.1")),
        ("5.7.606", (7, 606), ("550", "5.7.606")),
        ("4.1.1 of another class", None, ("550",)),
        ("5.1.1no", None, ("550",)),
        ("5.1.1111 no", None, ("550",)),
        ("no 5.1.1", None, ("550",)),
        ("", None, ("550",)),
    ],
)
def test_an_enhanced_code_begins_the_text_and_has_the_class_of_the_code(
    line: str, enhanced: tuple[int, int] | None, codes: tuple[str, ...]
) -> None:
    reply = Reply(550, (line, "5.9.9 a later line"))
    assert (reply.enhanced, reply.codes) == (enhanced, codes)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\r\n",
        b"150 x\r\n",
        b"650 x\r\n",
        b"25 x\r\n",
        b"2500 x\r\n",
        b"250-x\r\n550 x\r\n",
        b"\r\n",
        b"250 " + b"x" * LINE_BYTES + b"\r\n",
        b"x" * (LINE_BYTES + 1),
        b"250-x\r\n" * (REPLY_LINES + 1),
    ],
)
def test_what_is_no_reply_or_too_long_is_refused(said: bytes) -> None:
    with pytest.raises(NotSmtp):
        read(said)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([b"250-a\r\n250 b\r\n", b"354 go\r\n", b"550 5.1.1 no\n"]), max_size=4), st.data())
def test_pieces_make_no_difference(said: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(*pieces) == read(whole)
    assert len(read(whole)) == len(said)
    replies = Replies()
    replies.feed(whole[:-1])
    while replies.next():
        pass
    assert replies.pending == bool(whole)


@given(
    st.lists(
        st.sampled_from([b"250", b"550", b"-", b" ", b"x", b"\r\n", b"\n", b"250-a\r\n", b"250 b\r\n"]), max_size=9
    )
)
def test_a_reply_is_whole_before_it_is_read(pieces: list[bytes]) -> None:
    replies = Replies()
    replies.feed(b"".join(pieces))
    whole = replies.is_whole
    try:
        assert replies.next() is None or whole
    except NotSmtp:
        assert any(b"\n" in piece for piece in pieces)
    else:
        assert whole or not replies.is_whole


@pytest.mark.parametrize("flood", [b"250-a\r\n" * (REPLY_LINES + 1), b"2" * (LINE_BYTES + 1)])
def test_a_flood_needs_no_more(flood: bytes) -> None:
    replies = Replies()
    replies.feed(flood)
    assert replies.is_whole
    with pytest.raises(NotSmtp):
        replies.next()
