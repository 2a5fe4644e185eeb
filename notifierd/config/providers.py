"""The tables of the mail providers, [email.resend] and so on."""

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from notifierd.config import checks
from notifierd.config.checks import within
from notifierd.config.keys import Conflict, Table, key
from notifierd.config.network import authority


def endpoint(table: Any) -> str:  # noqa: ANN401 - the table of any provider
    """Return the URL that a provider's table leads to."""
    found: str = getattr(table, "endpoint", "") or table.base_url
    return found


@attrs.frozen
class ResendSettings(Table):
    """[email.resend]: https://resend.com/docs."""

    api_key: str = key("", checks.TOKEN, secret=True, required=True)
    """A key with the permission to send."""
    base_url: str = key("https://api.resend.com", checks.BASE_URL)
    """The URL of the API."""
    feedback_key: str = key("", checks.TOKEN, secret=True)
    """A key with full access, to ask what became of the mails; empty: notifierd does not ask."""


@attrs.frozen
class SendgridSettings(Table):
    """[email.sendgrid]: https://www.twilio.com/docs/sendgrid."""

    api_key: str = key("", checks.TOKEN, secret=True, required=True)
    """A key with the permission "Mail Send"."""
    base_url: str = key("https://api.sendgrid.com", checks.BASE_URL)
    """The URL of the API; for an EU subuser https://api.eu.sendgrid.com."""
    feedback_key: str = key("", checks.TOKEN, secret=True)
    """A key to ask what became of mails, with read access to "Email Activity" and "Suppressions"; empty: not asked."""


@attrs.frozen
class PostmarkSettings(Table):
    """[email.postmark]: https://postmarkapp.com/developer."""

    server_token: str = key("", checks.TOKEN, secret=True, required=True)
    """The server's API token; POSTMARK_API_TEST accepts everything and sends nothing."""
    message_stream: str = key("outbound")
    """The message stream for the mails; it must be a transactional one."""
    base_url: str = key("https://api.postmarkapp.com", checks.BASE_URL)
    """The URL of the API."""
    feedback_key: str = key("", checks.TOKEN, secret=True)
    """Another API token of the same server, to ask what became of the mails; empty: `server_token`."""


@attrs.frozen
class MailgunSettings(Table):
    """[email.mailgun]: https://documentation.mailgun.com."""

    api_key: str = key("", checks.TOKEN, secret=True, required=True)
    """A sending key of the domain, or the account's."""
    domain: str = key("", checks.DOMAIN, required=True)
    """The sending domain, as registered at Mailgun."""
    base_url: str = key("https://api.mailgun.net", checks.BASE_URL)
    """The URL of the API; for an EU domain https://api.eu.mailgun.net."""
    feedback_key: str = key("", checks.TOKEN, secret=True)
    """A key to ask what became of mails: the account's, because a sending key may not; empty: not asked."""


@attrs.frozen
class SesSettings(Table):
    """[email.ses]: Amazon SES, API v2. https://docs.aws.amazon.com/ses."""

    access_key_id: str = key("", checks.TOKEN, required=True)
    """The access key of a user with the permissions ses:SendEmail and ses:SendBulkEmail."""
    secret_access_key: str = key("", checks.TOKEN, secret=True, required=True)
    """The secret of the access key."""
    session_token: str = key("", checks.TOKEN, secret=True)
    """The token of temporary credentials; empty: the credentials are permanent."""
    region: str = key("ap-northeast-1", checks.REGION)
    """The region in which the sender is verified."""
    configuration_set: str = key("", checks.TOKEN)
    """The configuration set to send with; empty: the identity's default."""
    base_url: str = key("", checks.BASE_URL_OR_NONE)
    """The URL of the API; empty: https://email.REGION.amazonaws.com."""
    feedback_queue: str = key("", checks.BASE_URL_OR_NONE)
    """The URL of an SQS queue of notifierd's own that gets the events of the mails through SNS; empty: none. notifierd
    deletes the events that it has read. The user also needs sqs:ReceiveMessage, sqs:DeleteMessage,
    sqs:GetQueueAttributes and ses:GetAccount."""
    feedback_insights: bool = key(default=False)
    """Whether to ask for each mail by GetMessageInsights, one a second. This needs Virtual Deliverability Manager, and
    the permissions ses:GetMessageInsights and ses:GetAccount."""

    @property
    def endpoint(self) -> str:
        return self.base_url or f"https://email.{self.region}.amazonaws.com"


@attrs.frozen
class SmtpSettings(Table):
    """[email.smtp]: a mail server that accepts submissions (RFC 6409)."""

    host: str = key("", checks.optional(checks.HOST), required=True)
    """The mail server's name."""
    port: int = key(587, within(1, 65535))
    """The port for submissions: usually 587 with `starttls`, and 465 with `tls`."""
    security: Literal["starttls", "tls", "none"] = key("starttls")
    """`starttls`: TLS begins after the server's greeting (RFC 3207), and nothing is sent without it. `tls`: the
    connection begins with TLS (RFC 8314). `none`: no TLS, which only a server on loopback may be used with."""
    username: str = key("", private=True)
    """The user to log in as; empty: no login."""
    password: str = key("", secret=True)
    """The user's password."""

    @property
    def endpoint(self) -> str:
        return f"smtp{'s' if self.security == 'tls' else ''}://{authority(self.host, self.port)}"

    def conflicts(self) -> Iterator[Conflict]:
        if self.security == "none" and self.host and not checks.is_loopback(self.host):
            yield ("security", "host"), '"none" is for a server on loopback ("starttls" or "tls")'
        if self.username and not self.password:
            yield ("password", "username"), "is empty, and a login needs it"


@attrs.frozen
class GmailSettings(Table):
    """[email.gmail]: Gmail with a service account that may act for a user of the domain.

    https://developers.google.com/gmail/api. Google allows 60 mails a minute and 2,000 a day: set
    `limits.email_per_second` to 1.0 and `limits.email_per_day` to 2000.
    """

    service_account: str = key("", checks.optional(checks.SERVICE_ACCOUNT), secret=True, required=True)
    """The service account's key, the whole JSON text; `service_account_file` is recommended."""
    user: str = key("", checks.optional(checks.ADDRESS), private=True, required=True)
    """The address of the user to send as."""
    base_url: str = key("https://gmail.googleapis.com", checks.BASE_URL)
    """The URL of the API."""
    token_url: str = key("https://oauth2.googleapis.com/token", checks.BASE_URL)
    """The URL that issues access tokens."""
    feedback: bool = key(default=False)
    """Whether to read bounce mails in the user's mailbox, to learn what became of mails. The delegation then needs the
    scope https://www.googleapis.com/auth/gmail.readonly, too."""
