"""What a provider's words speak of, and that nobody's address can make them speak of us."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.send._words import LONGEST_TEXT, About, about, about_field

OURS = ("API key is invalid", "Your account has been suspended", "The domain is not verified", "Daily quota exceeded")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("api_key not found", About.US),
        ("The API-keys of this team were revoked", About.US),
        ("Invalid token", About.US),
        ("Token has expired", About.US),
        ("Unexpected token < in JSON at position 0", About.NOTHING),
        ("Unexpected token < is invalid JSON", About.NOTHING),
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
        ("Daily quota exceeded, by 3 requests per second", About.QUOTA),
        ("Too many requests", About.NOTHING),
        ("Recipient limit exceeded", About.NOTHING),
        ("Over the recipients quota of 10 per minute", About.NOTHING),
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


STOPPED = (
    *("suspended", "disabled", "deactivated", "inactive", "pending", "paused", "closed", "terminated", "locked"),
    *("restricted", "banned", "expired"),
)


@pytest.mark.parametrize("stopped", STOPPED)
@pytest.mark.parametrize("text", ["Your account is {}", "A {} account sends nothing", "Sending is {} for now"])
def test_an_account_that_is_stopped_is_ours(text: str, stopped: str) -> None:
    assert about(text.format(stopped)) is About.US


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The {} key was not found", "api|access|secret|signing"),
        ("Unknown {}-token", "api|access|bearer|server|account|security|auth"),
        ("The token of this call is {}", "invalid|expired|missing|revoked|not valid|unknown"),
        ("{} token", "Invalid|Expired|Missing|Bad|Revoked"),
        ("The caller is {}", "unauthorized|not authorized|not authorised|not authenticated"),
        ("Could not {}", "authenticate|pass authentication|read authorization|read your credentials"),
        ("Access denied{}", "|, ask your administrator"),
        ("The {} does not match", "signature|request's signature"),
        ("Your account is {}", "not activated|not active|under review"),
        ("You are not {} to send", "allowed|permitted|able"),
        ("See {}", "billing|payment|upgrade"),
        ("For {} only", "test purposes|authorized recipients|verified recipients"),
        ("The from {} is wrong", "address|email|mail|field|parameter|header|domain"),
        ("First verify {} domain", "a|your|the"),
        ("It is {}", "unverified|not verified|not been verified"),
        ("The domain of this mail is not {}", "active|authenticated|allowed|registered|configured|enabled"),
    ],
)
def test_what_every_message_meets_is_ours(text: str, words: str) -> None:
    for word in words.split("|"):
        assert about(text.format(word)) is About.US, word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Your {} quota is used up", "hourly|daily|monthly|plan's|account's"),
        ("Your monthly {} are used up", "quotas"),
        ("Over the {} sending limit", "hourly|daily|monthly|plan's|account's"),
        ("That is the limit of your {}", "plan|account"),
        ("You have no {} left", "credit|credits|quota"),
    ],
)
def test_a_number_of_mails_that_is_used_up_is_a_quota(text: str, words: str) -> None:
    for word in words.split("|"):
        assert about(text.format(word)) is About.QUOTA, word


@pytest.mark.parametrize("unit", ["second", "minute"])
def test_a_rate_is_no_quota(unit: str) -> None:
    assert about(f"Over the quota of 10 requests per {unit}") is About.NOTHING
    assert about("The limit of 3 requests was reached") is About.NOTHING


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("See '{field}'", "-"),
        ("See `{field}`", "-"),
        ('See "{field}"', "-"),
        ("There is a {word} {field} field", "invalid|missing|bad|empty|malformed"),
        ("See the {field} {word}", "address|field|parameter|header"),
    ],
)
def test_a_field_of_the_recipients_is_the_messages(text: str, words: str, field: str) -> None:
    for word in words.split("|"):
        assert about(text.format(field=field, word=word)) is About.MESSAGE, word


@pytest.mark.parametrize(
    "word", ["suppressed", "on the suppression list", "no valid recipient", "one of the recipients"]
)
def test_a_recipient_is_the_messages(word: str) -> None:
    assert about(f"The address is {word}") is About.MESSAGE


@pytest.mark.parametrize("word", ["limit", "rate"])
def test_a_number_of_recipients_is_no_recipient(word: str) -> None:
    assert about(f"Over the recipients per day {word}") is About.NOTHING


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [
        (("to", "To", "cc", "CC", "bcc", "Bcc"), About.MESSAGE),
        (("from", "From", "reply_to", "Reply-To", "replyTo", "sender"), About.US),
        (("subject", "html", "tos", ""), None),
    ],
)
def test_a_field_that_is_named_tells_whose_it_is(fields: Sequence[str], meaning: About | None) -> None:
    assert [about_field(field) for field in fields] == [meaning] * len(fields)


def test_of_a_long_text_the_beginning_is_read() -> None:
    ends = " API key"
    assert about("x" * (LONGEST_TEXT - len(ends)) + ends) is About.US
    assert about("x" * (LONGEST_TEXT - len(ends) + 1) + ends) is About.NOTHING


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
