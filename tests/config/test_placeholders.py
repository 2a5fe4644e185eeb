"""Values of an example that nobody replaced, and values that only look a little like one."""

import pytest
from attrs import evolve

from notifierd.config.placeholders import placeholders
from notifierd.config.providers import GmailSettings, MailgunSettings, ResendSettings, SesSettings, SmtpSettings
from notifierd.config.settings import (
    ContentSettings,
    DatabaseSettings,
    EmailSettings,
    SafetySettings,
    Settings,
    WatchSettings,
)

OWN = EmailSettings(sender="Keikakun <no-reply@keikakun-mihon.jp>", resend=ResendSettings(api_key="re_9hTq_x3xXXv1"))


def found(settings: Settings) -> dict[str, bool]:
    """The keys that have a placeholder, and whether it stops everything."""
    return {one.key: one.stops for one in placeholders(settings)}


def test_ones_own_values_are_no_placeholders():
    settings = Settings(
        email=OWN,
        database=DatabaseSettings(dsn="postgresql://notifierd:kX92-change@db.internal/app"),
        content=ContentSettings(dashboard_url="https://app.keikakun-mihon.jp/example"),
    )
    assert found(settings) == {}
    assert found(Settings()) == {}, "what is missing is told elsewhere"


@pytest.mark.parametrize(
    "key",
    [
        "re_xxx",
        "re_xxxxxxxxx",
        "SG.xxxxxxxx",
        "re_your_key",
        "your-api-key",
        "YOUR_API_KEY_HERE",
        "change-me",
        "changeme",
        "<your-key>",
        "${RESEND_API_KEY}",
        "{{resend}}",
        "...",
    ],
)
def test_a_placeholder_of_a_key_is_recognised(key: str):
    assert found(Settings(email=evolve(OWN, resend=ResendSettings(api_key=key)))) == {"email.resend.api_key": True}


@pytest.mark.parametrize(
    "domain",
    [
        "example.com",
        "mail.example.net",
        "example.org",
        "example.jp",
        "keikakun.example.jp",
        "example.co.jp",
        "keikakun.example",
        "keikakun.test",
        "EXAMPLE.JP",
    ],
)
def test_a_sender_in_a_domain_for_examples_is_recognised(domain: str):
    for sender in (f"no-reply@{domain}", f"けいかくん <no-reply@{domain}>"):
        assert found(Settings(email=evolve(OWN, sender=sender))) == {"email.sender": True}


@pytest.mark.parametrize(
    "domain", ["myexample.jp", "example.tokyo", "example.jp.keikakun-mihon.jp", "test.keikakun-mihon.jp"]
)
def test_a_domain_that_somebody_owns_is_none(domain: str):
    assert found(Settings(email=evolve(OWN, sender=f"no-reply@{domain}"))) == {}


@pytest.mark.parametrize("key", ["http://[", "//[x", "a@[::1", "\\"])
def test_a_key_may_be_anything(key: str):
    assert found(Settings(email=evolve(OWN, resend=ResendSettings(api_key=key)))) == {}
    ses = SesSettings(access_key_id=key.replace("http", "a"), secret_access_key=key)
    assert found(Settings(email=evolve(OWN, provider="ses", ses=ses))) == {}


def test_only_the_providers_in_use_are_looked_at():
    email = evolve(
        OWN,
        ses=SesSettings(access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalr/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        mailgun=MailgunSettings(api_key="key-8a1f", domain="mg.example.jp"),
        gmail=GmailSettings(service_account='{"client_email": "a", "private_key": "b"}', user="me@example.com"),
    )
    assert found(Settings(email=email)) == {}
    assert found(Settings(email=evolve(email, fallback="ses"))) == {
        "email.ses.access_key_id": True,
        "email.ses.secret_access_key": True,
    }
    assert found(Settings(email=evolve(email, provider="mailgun"))) == {"email.mailgun.domain": True}
    assert found(Settings(email=evolve(email, fallback="gmail"))) == {"email.gmail.user": True}


def test_the_mail_server_of_an_example_is_none():
    def of(host: str, sender: str = "no-reply@example.jp") -> dict[str, bool]:
        smtp = SmtpSettings(host=host, security="none" if host == "localhost" else "starttls")
        return found(Settings(email=evolve(OWN, provider="smtp", smtp=smtp, sender=sender)))

    assert of("mail.example.jp") == {"email.smtp.host": True}
    assert of("mailhub") == of("10.0.0.7") == of("smtp.keikakun-mihon.jp") == {"email.sender": True}
    assert of("localhost") == of("mailhub", OWN.sender) == {}


@pytest.mark.parametrize("url", ["http://127.0.0.1:8025", "http://mail-api:8025", "http://10.0.0.7", "http://api.test"])
def test_a_program_of_ones_own_may_take_any_key_and_sender(url: str):
    resend = ResendSettings(api_key="re_xxx", base_url=url)
    assert found(Settings(email=evolve(OWN, sender="no-reply@example.jp", resend=resend))) == {}


def test_what_does_not_stop_the_mails_is_told_as_well():
    settings = Settings(
        email=evolve(OWN, reply_to="ask@example.jp", list_unsubscribe="mailto:stop@example.jp?subject=stop@home"),
        database=DatabaseSettings(dsn="postgresql://notifierd:change-me@db.example.jp/app"),
        content=ContentSettings(dashboard_url="https://app.example.jp/a@b"),
        safety=SafetySettings(redirect_to="me@example.jp"),
        watch=WatchSettings(webhook_url="https://hooks.example.com/x", ping_url="https://hc.example.com:8000/x"),
    )
    assert found(settings) == dict.fromkeys(
        (
            "email.reply_to",
            "email.list_unsubscribe",
            "content.dashboard_url",
            "safety.redirect_to",
            "watch.webhook_url",
            "watch.ping_url",
            "database.dsn",
        ),
        False,
    )
