"""What a provider's words speak of, and that nobody's address can make them speak of us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.send._words import About, about, about_field

OURS = ("API key is invalid", "Your account has been suspended", "The domain is not verified", "Daily quota exceeded")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("api_key not found", About.US),
        ("The API-keys of this team were revoked", About.US),
        ("Invalid token", About.US),
        ("Token has expired", About.US),
        ("Unexpected token < in JSON at position 0", About.NOTHING),
        ("Unauthorised", About.US),
        ("Sender address rejected", About.US),
        ("Invalid `from` field", About.US),
        ("'Reply-To' is not valid", About.US),
        ("Your account is under review", About.US),
        ("Sending is paused", About.US),
        ("Please upgrade your plan", About.US),
        ("The message stream was not found", About.US),
        ("You have no credits left", About.QUOTA),
        ("Your plan's limit of 3,000 was reached", About.QUOTA),
        ("Quota exceeded for queries per minute", About.NOTHING),
        ("Too many requests", About.NOTHING),
        ("Recipient limit exceeded", About.NOTHING),
        ("Sandbox domains: add the address to authorized recipients in Account Settings", About.US),
        ("Free accounts are for test purposes only. Please upgrade.", About.US),
        ("You may only send to verified recipients", About.US),
        ("The limit of recipients was reached", About.NOTHING),
        ("The recipients exceed the limit of your plan", About.QUOTA),
        ("Your hourly sending limit was reached", About.QUOTA),
        ("Your account has exceeded its rate limit of 10 requests", About.NOTHING),
        ("The account's size limit for a message was exceeded", About.NOTHING),
        ("The recipient's mailbox does not exist", About.MESSAGE),
        ("The address is on the suppression list of your account", About.MESSAGE),
        ("Invalid To header", About.MESSAGE),
        ("to parameter is not a valid address", About.MESSAGE),
        ("In order to address this, try later", About.NOTHING),
        ("The message is too large", About.NOTHING),
        ("This recipient is not allowed by your API key", About.US),
        ("", About.NOTHING),
    ],
)
def test_words_speak_of_us_of_the_recipient_or_of_nothing(text: str, meaning: About) -> None:
    assert about(text) is meaning
    assert about(text.upper()) is meaning


@pytest.mark.parametrize("text", OURS)
@pytest.mark.parametrize("before", ["", "Error: ", "\n"])
def test_what_stands_around_words_changes_nothing(before: str, text: str) -> None:
    assert about(f"{before}{text}. See https://example.com/docs") in {About.US, About.QUOTA}


@given(
    st.sampled_from(
        ["api-key", "account.suspended", "daily.quota", '"account suspended"', '"API key"', "from+address"]
    ),
    st.sampled_from(["api-key.example.jp", "account-suspended.jp", "quota.monthly.jp", "xn--sender-x.jp"]),
    st.sampled_from(["{} is odd", "<{}>: no", "odd: '{}'", "{0} and {0}"]),
)
def test_nobodys_address_speaks_of_us(local: str, domain: str, said: str) -> None:
    """Or one person could stop everybody's mail by the address that they enter."""
    assert about(said.format(f"{local}@{domain}")) is About.NOTHING
    assert about(said.format(domain)) is About.NOTHING


@given(st.text(max_size=3000))
def test_any_text_speaks_of_something(text: str) -> None:
    assert about(text) in About
    assert about_field(text) in {*About, None}
