"""The configuration's tables and keys, as config.toml and docs/configuration.md name them.

Every class is one table, frozen, with its defaults; the text below a key says what it does, its unit, and what zero or
empty means. Secrets and addresses are left out of the classes' ``repr``.
"""
# ruff: noqa: RUF009 - key() makes a field, anew for each key

from collections.abc import Iterator
from datetime import date, time
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs

from notifierd import fields
from notifierd.address import Address, Mailbox, parse_mailbox
from notifierd.fields import key, within

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Provider = Literal["resend", "sendgrid", "postmark", "mailgun", "ses", "gmail"]
Language = Literal["ja", "en"]

Conflict = tuple[tuple[str, ...], str]
"""Keys of one table that do not go together, and why; the first is the one to mend."""


@attrs.frozen
class Table:
    """What the loader asks of every table."""

    def conflicts(self) -> Iterator[Conflict]:
        """Tell which keys, each good by itself, do not go together."""
        yield from ()


@attrs.frozen
class WindowSettings(Table):
    """[window]: when a run may send."""

    at: time = key(time(9))
    """When the window opens, in local time of `timezone`."""
    until: time = key(time(12))
    """When it ends; what is not sent by then expires. Earlier than `at`: on the next morning."""
    timezone: str = key("Asia/Tokyo", fields.ZONE)
    """The zone of both times, and of the business day."""
    holidays: str = key("JP", fields.COUNTRY)
    """The country whose public holidays are closed; empty: none are."""
    closed_weekdays: tuple[Weekday, ...] = key(
        ("sat", "sun"),
        fields.Check("", lambda days: len(set(days)) < 7, "closes all seven days of the week (at most 6)"),  # noqa: PLR2004
    )
    """The weekdays without a run; empty: none."""
    closed_dates: tuple[date, ...] = key(())
    """Further days without a run, such as an office's own holidays."""
    open_dates: tuple[date, ...] = key(())
    """Days with a run all the same; they win over everything above."""

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def conflicts(self) -> Iterator[Conflict]:
        if self.at == self.until:
            yield ("until", "at"), f"{self.until.isoformat()} is when the window opens (any other time is allowed)"


@attrs.frozen
class LimitsSettings(Table):
    """[limits]: how much at once. The only table that may change during a run (SIGHUP)."""

    offices: int = key(10, within(1, 100), unit="offices")
    """Offices worked on at once."""
    email: int = key(5, within(1, 100), unit="calls")
    """Calls to the mail provider at once."""
    push: int = key(20, within(1, 500), unit="calls")
    """Calls to push services at once; at most a quarter of them for one service."""
    email_per_second: float = key(0.0, within(0, 1000), unit="calls per second")
    """Calls to the mail provider begun in a second; 0: as many as `email` allows."""
    email_per_day: int = key(0, within(0, 10_000_000), unit="mails")
    """Mails in a day, as the provider's quota has it; 0: no limit."""
    send_timeout: float = key(30.0, within(0.1, 600), unit="seconds")
    """The longest a call may take. A call cut off by it may have been carried out."""
    attempts: int = key(3, within(1, 20), unit="tries")
    """Tries of one delivery before it counts as failed."""
    shutdown_grace: float = key(20.0, within(0, 600), unit="seconds")
    """What calls in flight get after SIGTERM; 0: they are cut at once."""


@attrs.frozen
class DatabaseSettings(Table):
    """[database]: the application's PostgreSQL, 14 or newer."""

    dsn: str = key("", fields.optional(fields.DSN), secret=True)
    """Where it is: postgresql://user:password@host:5432/database; empty: what PGHOST, PGUSER and the like say."""
    pool_size: int = key(4, within(1, 100), unit="connections")
    """Connections at most."""
    statement_timeout: float = key(30.0, within(0.1, 3600), unit="seconds")
    """The longest a statement may take."""
    plan_timeout: float = key(300.0, within(1, 3600), unit="seconds")
    """The longest the one statement that plans the day may take."""


@attrs.frozen
class ResendSettings(Table):
    """[email.resend]: https://resend.com/docs."""

    api_key: str = key("", fields.TOKEN, secret=True, required=True)
    """A key with the right to send."""
    base_url: str = key("https://api.resend.com", fields.BASE_URL)
    """Where the API is."""


@attrs.frozen
class SendgridSettings(Table):
    """[email.sendgrid]: https://www.twilio.com/docs/sendgrid."""

    api_key: str = key("", fields.TOKEN, secret=True, required=True)
    """A key with the right "Mail Send"."""
    base_url: str = key("https://api.sendgrid.com", fields.BASE_URL)
    """Where the API is; for a subuser in the EU https://api.eu.sendgrid.com."""


@attrs.frozen
class PostmarkSettings(Table):
    """[email.postmark]: https://postmarkapp.com/developer."""

    server_token: str = key("", fields.TOKEN, secret=True, required=True)
    """The server's API token; POSTMARK_API_TEST accepts everything and sends nothing."""
    message_stream: str = key("outbound")
    """The stream that mails go through; it has to be a transactional one."""
    base_url: str = key("https://api.postmarkapp.com", fields.BASE_URL)
    """Where the API is."""


@attrs.frozen
class MailgunSettings(Table):
    """[email.mailgun]: https://documentation.mailgun.com."""

    api_key: str = key("", fields.TOKEN, secret=True, required=True)
    """A sending key of the domain, or the account's."""
    domain: str = key("", fields.DOMAIN, required=True)
    """The sending domain, as registered there."""
    base_url: str = key("https://api.mailgun.net", fields.BASE_URL)
    """Where the API is; for a domain in the EU https://api.eu.mailgun.net."""


@attrs.frozen
class SesSettings(Table):
    """[email.ses]: Amazon SES, API v2. https://docs.aws.amazon.com/ses."""

    access_key_id: str = key("", fields.TOKEN, required=True)
    """The access key of a user with the rights ses:SendEmail and ses:SendBulkEmail."""
    secret_access_key: str = key("", fields.TOKEN, secret=True, required=True)
    """Its secret."""
    session_token: str = key("", fields.TOKEN, secret=True)
    """For temporary credentials; empty: they are lasting ones."""
    region: str = key("ap-northeast-1", fields.REGION)
    """The region that the sender is verified in."""
    configuration_set: str = key("", fields.TOKEN)
    """The configuration set to send with; empty: the identity's default."""
    base_url: str = key("", fields.BASE_URL_OR_NONE)
    """Where the API is; empty: the region's own, https://email.REGION.amazonaws.com."""

    @property
    def endpoint(self) -> str:
        return self.base_url or f"https://email.{self.region}.amazonaws.com"


@attrs.frozen
class GmailSettings(Table):
    """[email.gmail]: Gmail with a service account that may act for a user of the domain.

    https://developers.google.com/gmail/api. 60 mails a minute and 2,000 a day is what Google allows: set
    `limits.email_per_second` to 1.0 and `limits.email_per_day` to 2000.
    """

    service_account: str = key("", fields.optional(fields.SERVICE_ACCOUNT), secret=True, required=True)
    """The service account's key, the whole JSON text; best given as `service_account_file`."""
    user: str = key("", fields.optional(fields.ADDRESS), private=True, required=True)
    """The address of the user to send as."""
    base_url: str = key("https://gmail.googleapis.com", fields.BASE_URL)
    """Where the API is."""
    token_url: str = key("https://oauth2.googleapis.com/token", fields.BASE_URL)
    """Where access tokens come from."""


@attrs.frozen
class EmailSettings(Table):
    """[email]: who sends the mails, and in whose name."""

    provider: Provider = key("resend")
    """The provider's name; its table below says the rest."""
    fallback: Literal[Provider, ""] = key("")
    """The provider to turn to when the first refuses us or fails every call; empty: wait for the first."""
    sender: str = key("", fields.optional(fields.MAILBOX), private=True)
    """The From address, `name@example.jp` or `Name <name@example.jp>`, of a domain that the provider has verified."""
    reply_to: str = key("", fields.optional(fields.MAILBOX), private=True)
    """Where answers go; empty: to the sender."""
    list_unsubscribe: str = key("", fields.optional(fields.UNSUBSCRIBE), private=True)
    """The List-Unsubscribe header, a mailto: or https: URL; empty: no such header. ``{staff_id}`` in it becomes the
    staff member's id: a mail program may then unsubscribe them by one POST to an https: URL (RFC 8058)."""
    on_unknown: Literal["repeat", "hold"] = key("repeat")
    """What happens when an answer was lost and the provider honours no idempotency keys: `repeat` sends once more (a
    reminder too many is better than a deadline missed), `hold` leaves the delivery `unknown`."""
    resend: ResendSettings = ResendSettings()
    sendgrid: SendgridSettings = SendgridSettings()
    postmark: PostmarkSettings = PostmarkSettings()
    mailgun: MailgunSettings = MailgunSettings()
    ses: SesSettings = SesSettings()
    gmail: GmailSettings = GmailSettings()

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers to use, the preferred one first."""
        return (self.provider, self.fallback) if self.fallback else (self.provider,)

    @property
    def sender_mailbox(self) -> Mailbox:
        """`sender`, read; where it is empty, as it may be before anything is sent, a stand-in."""
        return parse_mailbox(self.sender) if self.sender else Mailbox(Address("nobody@localhost"))

    def conflicts(self) -> Iterator[Conflict]:
        if self.fallback == self.provider:
            yield ("fallback", "provider"), f'"{self.fallback}" is the provider itself (another one, or "")'


@attrs.frozen
class PushSettings(Table):
    """[push]: Web Push."""

    enabled: bool = key(default=True)
    """False: no push is planned."""
    vapid_private_key: str = key("", fields.optional(fields.VAPID_KEY), secret=True)
    """Our key towards the push services, as `notifierd vapid` makes it. Devices subscribed under another are lost."""
    subject: str = key("", fields.optional(fields.CONTACT), private=True)
    """Whom a push service may turn to, a mailto: or https: URL; empty: mailto: with the address of `email.sender`."""
    urgency: Literal["very-low", "low", "normal", "high"] = key("normal")
    """RFC 8030, section 5.3: whether to wake a device that saves its battery."""
    icon: str = key("/icon-192.png")
    """The notification's picture, a path on the application's origin or a URL; empty: none."""
    badge: str = key("/icon-192.png")
    """The small picture of Android's status bar; empty: none."""
    allowed_hosts: tuple[str, ...] = key(
        ("fcm.googleapis.com", "*.push.services.mozilla.com", "*.notify.windows.com", "*.push.apple.com"), fields.HOSTS
    )
    """The push services that may be called: endpoints come from browsers. `*.` stands for any subdomain."""
    devices_per_person: int = key(20, within(1, 100))
    """To how many devices of one person pushes go, the newest ones; the person's others are named in the log."""
    allow_private_addresses: bool = key(default=False)
    """True is for test set-ups: it permits private addresses, http:// and any port."""


@attrs.frozen
class ContentSettings(Table):
    """[content]: what the messages say."""

    language: Language = key("ja")
    """The language of the messages."""
    product: str = key("keikakun", fields.LABEL)
    """The application's name, as its users know it."""
    dashboard_url: str = key("", fields.optional(fields.HTTP_URL))
    """Where the link in a mail leads; empty: there is no link."""
    templates: str = key("", fields.optional(fields.FOLDER), path=True)
    """A folder of templates that replace the built-in ones of the same name; empty: the built-in ones."""
    overdue: bool = key(default=True)
    """Whether renewals whose day has come or passed are told."""
    horizon_days: int = key(30, within(0, 366), unit="days")
    """How far ahead deadlines are looked for; each staff member's own threshold decides within it. 0: today or past."""


@attrs.frozen
class SafetySettings(Table):
    """[safety]: for trying out beside a live system, so that a staging copy never mails."""

    redirect_to: str = key("", fields.optional(fields.ADDRESS), private=True)
    """The one address that all mail goes to instead; empty: mail goes where it should."""
    only_offices: tuple[UUID, ...] = key(())
    """The only offices to work for; empty: all."""
    database_id: str = key("", fields.DIGITS)
    """Send only on the cluster with this system identifier (`select system_identifier from pg_control_system()`);
    empty: on any."""


@attrs.frozen
class HttpSettings(Table):
    """[http]: health, metrics, and the page for people."""

    enabled: bool = key(default=True)
    """False: nothing listens."""
    bind: str = key("127.0.0.1:9464", fields.BIND)
    """Where to listen, host:port; port 0: any free one. Beyond loopback only with a token."""
    token: str = key("", fields.TOKEN, secret=True)
    """What the page and the metrics ask for; empty: nothing."""
    hosts: tuple[str, ...] = key((), fields.NAMES)
    """Further names to be asked for by, such as a reverse proxy's; addresses and localhost need not be named."""

    @property
    def address(self) -> tuple[str, int]:
        return fields.parse_bind(self.bind)

    def conflicts(self) -> Iterator[Conflict]:
        if self.enabled and not self.token and not fields.is_loopback(self.address[0]):
            why = f"required, because {self.bind} is reachable from beyond this machine"
            yield ("token", "bind", "enabled"), f"{why} (or bind to 127.0.0.1 or [::1])"


@attrs.frozen
class LogSettings(Table):
    """[log]: what goes to stderr."""

    format: Literal["auto", "json", "text"] = key("auto")
    """`auto`: readable on a terminal, JSON lines otherwise."""
    level: Literal["debug", "info", "warning", "error"] = key("info")
    """The least that is told."""


@attrs.frozen
class WatchSettings(Table):
    """[watch]: who is told about the runs."""

    webhook_url: str = key("", fields.optional(fields.HTTP_URL), secret=True)
    """Where alarms are posted, as Slack's incoming webhooks take them; empty: nowhere. A secret, since knowing such a
    URL is the right to post."""
    ping_url: str = key("", fields.optional(fields.HTTP_URL), secret=True)
    """The dead man's switch, as healthchecks has it: `/start` is added when a run begins and `/fail` when it failed,
    and it is called as it is after a good run and on a closed day; empty: nothing."""
    failure_ratio: float = key(0.05, within(0, 1), unit="of a run's deliveries")
    """The share of failures from which a run is an alarm; 0: any failure is one."""
    run_seconds: float = key(600.0, within(0, 86_400), unit="seconds")
    """How long a run may take before that is an alarm; 0: as long as it likes."""


@attrs.frozen
class Settings(Table):
    """The whole configuration."""

    window: WindowSettings = WindowSettings()
    limits: LimitsSettings = LimitsSettings()
    database: DatabaseSettings = DatabaseSettings()
    email: EmailSettings = EmailSettings()
    push: PushSettings = PushSettings()
    content: ContentSettings = ContentSettings()
    safety: SafetySettings = SafetySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    watch: WatchSettings = WatchSettings()

    @property
    def push_subject(self) -> str:
        """The ``sub`` of RFC 8292, section 2.1: `push.subject`, or the sender's address."""
        return fields.ascii_contact(self.push.subject or f"mailto:{self.email.sender_mailbox.address}")
