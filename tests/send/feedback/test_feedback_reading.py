"""Codes, addresses and failures, as every reader understands them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.model.feedback import MailStatus
from notifierd.send._words import About
from notifierd.send.feedback._reading import Failed, code_in, more_specific, not_permanent, permanent, refusal


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("5.1.1", "5.1.1"),
        ("smtp; 550 5.1.1 <taro@example.jp>: user unknown", "5.1.1"),
        ("smtp;550-5.7.26 This mail has been blocked", "5.7.26"),
        ("550 #5.1.0 Address rejected.", "5.1.0"),
        ("It said 5.2.2.", "5.2.2"),
        ("550 user unknown", ""),
        ("550 blocked using list.example, 5.9.12.34", ""),
        ("5.1.1.1", ""),
        ("15.1.1", ""),
        ("5.1.1234", ""),
        ("3.1.1", ""),
        ("５.1.1", ""),
        (" " * 1000 + "5.1.1", ""),
        (5.1, ""),
        (None, ""),
    ],
)
def test_a_code_is_found_in_what_the_provider_says(said: object, code: str) -> None:
    assert code_in(said) == code


@given(st.text())
def test_any_text_has_a_short_code_or_none(said: str) -> None:
    assert len(code_in(said)) <= len("5.123.123")


@pytest.mark.parametrize(
    ("code", "other", "found"),
    [
        ("5.1.1", "5.7.1", "5.1.1"),
        ("5.0.0", "5.7.1", "5.7.1"),
        ("", "5.7.1", "5.7.1"),
        ("5.0.0", "", "5.0.0"),
        ("", "", ""),
    ],
)
def test_of_two_codes_the_one_that_says_more_counts(code: str, other: str, found: str) -> None:
    assert more_specific(code, other) == found


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", MailStatus.BOUNCED),
        ("5.0.0", MailStatus.BOUNCED),
        ("5.1.1", MailStatus.BOUNCED),
        ("5.1.2", MailStatus.BOUNCED),
        ("5.1.10", MailStatus.BOUNCED),
        ("4.1.1", MailStatus.BOUNCED),
        ("5.1.8", MailStatus.REFUSED),
        ("5.2.1", MailStatus.REFUSED),
        ("5.2.2", MailStatus.REFUSED),
        ("5.4.1", MailStatus.REFUSED),
        ("5.7.1", MailStatus.REFUSED),
        ("5.7.26", MailStatus.REFUSED),
    ],
)
def test_a_permanent_failure_is_a_bounce_unless_its_code_is_about_something_else(code: str, status: MailStatus) -> None:
    assert permanent(code) is status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", MailStatus.REFUSED),
        ("4.0.0", MailStatus.REFUSED),
        ("5.2.2", MailStatus.REFUSED),
        ("5.7.1", MailStatus.REFUSED),
        ("5.1.1", MailStatus.BOUNCED),
    ],
)
def test_any_other_final_failure_is_a_refusal_unless_its_code_is_about_the_address(
    code: str, status: MailStatus
) -> None:
    assert not_permanent(code) is status


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (200, None, "unreadable:200"),
        (400, About.NOTHING, "unexpected:400"),
        (400, About.US, "blocked:400"),
        (401, About.NOTHING, "blocked:401"),
        (404, About.NOTHING, "unexpected:404"),
        (404, None, "not_the_provider:404"),
        (422, About.MESSAGE, "unexpected:422"),
        (429, About.NOTHING, "rate_limited:429"),
        (429, About.QUOTA, "quota:429"),
        (503, None, "server_error:503"),
        (504, None, "server_error:504"),
    ],
)
def test_why_an_answer_tells_nothing(status: int, said: About | None, reason: str) -> None:
    assert refusal(status, said) == Failed(reason)
