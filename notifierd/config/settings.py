"""The configuration's tables and keys, as in config.toml and docs/configuration.md.

Each class is one frozen table with its defaults. The text below a key says what it does, its unit, and what zero or
empty means. Secrets and addresses are left out of the classes' ``repr``.
"""
# ruff: noqa: RUF009 - key() makes a field, anew for each key

from collections.abc import Iterator
from datetime import date, time
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs

from notifierd.config import checks, network
from notifierd.config.checks import within
from notifierd.config.keys import Conflict, Table, key
from notifierd.config.providers import (
    GmailSettings,
    MailgunSettings,
    PostmarkSettings,
    ResendSettings,
    SendgridSettings,
    SesSettings,
    SmtpSettings,
)
from notifierd.model.address import Address, Mailbox, parse_mailbox

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Provider = Literal["resend", "sendgrid", "postmark", "mailgun", "ses", "gmail", "smtp"]
Language = Literal["ja", "en"]

Audit = Literal["each", "office", "none"]
WebhookFormat = Literal["slack", "teams", "chatwork", "lineworks"]


@attrs.frozen
class WindowSettings(Table):
    """[window]: when a run may send."""

    at: time = key(time(9))
    """When the window opens, in local time of `timezone`."""
    until: time = key(time(12))
    """When the window ends; messages that are not sent by then expire. Before `at`: on the next morning."""
    timezone: str = key("Asia/Tokyo", checks.ZONE)
    """The time zone of both times and of the business day."""
    holidays: str = key("JP", checks.COUNTRY)
    """The country whose public holidays are closed; empty: none."""
    closed_weekdays: tuple[Weekday, ...] = key(
        ("sat", "sun"),
        checks.Check("", lambda days: len(set(days)) < 7, "closes all seven days of the week (at most 6)"),  # noqa: PLR2004
    )
    """The weekdays without a run; empty: none."""
    closed_dates: tuple[date, ...] = key(())
    """Further days without a run, such as an office's own holidays."""
    open_dates: tuple[date, ...] = key(())
    """Days with a run in any case; they override everything above."""

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def conflicts(self) -> Iterator[Conflict]:
        if self.at == self.until:
            yield ("until", "at"), f"{self.until.isoformat()} is when the window opens (any other time is allowed)"


@attrs.frozen
class LimitsSettings(Table):
    """[limits]: how much is done at once."""

    offices: int = key(10, within(1, 100), unit="offices")
    """Offices processed at once."""
    email: int = key(5, within(1, 100), unit="calls")
    """Calls to the mail provider at once."""
    push: int = key(20, within(1, 500), unit="calls")
    """Calls to push services at once; one service gets at most a quarter of them."""
    email_per_second: float = key(0.0, within(0, 1000), unit="calls per second")
    """Calls to the mail provider per second; 0: as many as `email` allows."""
    email_per_day: int = key(0, within(0, 10_000_000), unit="mails")
    """Mails per day, the provider's quota; 0: no limit."""
    send_timeout: float = key(30.0, within(0.1, 600), unit="seconds")
    """The longest time that a call may take. A call that takes longer is cancelled, and may have been carried out."""
    attempts: int = key(3, within(1, 20), unit="tries")
    """Tries of a delivery before it fails."""
    shutdown_grace: float = key(20.0, within(0, 600), unit="seconds")
    """The time that calls in flight get after SIGTERM; 0: they are cancelled at once."""


@attrs.frozen
class DatabaseSettings(Table):
    """[database]: the application's PostgreSQL, 14 or newer."""

    dsn: str = key("", checks.optional(checks.DSN), secret=True)
    """Its address: postgresql://user:password@host:5432/database; empty: the variables PGHOST, PGUSER etc. apply."""
    pool_size: int = key(4, within(1, 100), unit="connections")
    """The maximum number of connections."""
    statement_timeout: float = key(30.0, within(0.1, 3600), unit="seconds")
    """The longest time that a statement may take."""
    plan_timeout: float = key(300.0, within(1, 3600), unit="seconds")
    """The longest time that the statement that plans the day may take."""
    pooler: bool = key(default=False)
    """Whether connections go through a pooler such as PgBouncer, in session or transaction mode."""
    retention_days: int = key(400, within(31, 36500), unit="days")
    """The age at which a day's deliveries and its run are deleted, in small steps after a run."""


@attrs.frozen
class NetworkSettings(Table):
    """[network]: the way to the providers, the push services and the receivers of alarms."""

    proxy: str = key("", network.PROXY, secret=True)
    """The HTTP proxy for all calls, http://user:password@host:port; empty: none. `environment`: the variables
    HTTPS_PROXY and NO_PROXY apply."""
    no_proxy: tuple[str, ...] = key((), network.NO_PROXY)
    """What is called without the proxy: hosts, all subdomains of a host (`.example.jp` or `*.example.jp`), addresses
    and networks, each for one port if `:port` follows; `*`: everything. Loopback is never called through the proxy."""
    ca_file: str = key("", network.CA_FILE, path=True)
    """A file with certificates in PEM that are trusted in addition to the system's; empty: none."""


@attrs.frozen
class EmailSettings(Table):
    """[email]: the provider that sends the mails, and the sender's address."""

    provider: Provider = key("resend")
    """The provider's name; its own table is below."""
    fallback: Literal[Provider, ""] = key("")
    """The second provider, used while the first is unavailable or rejects our account; empty: wait for the first."""
    sender: str = key("", checks.optional(checks.MAILBOX), private=True)
    """The From address, `name@example.jp` or `Name <name@example.jp>`, in a domain that the provider has verified."""
    reply_to: str = key("", checks.optional(checks.MAILBOX), private=True)
    """The address for replies; empty: the sender."""
    list_unsubscribe: str = key("", checks.optional(checks.UNSUBSCRIBE), private=True)
    """The List-Unsubscribe header, a mailto: or https: URL; empty: no such header. ``{staff_id}`` in it is replaced by
    the staff member's id: a mail program can then unsubscribe them by one POST to an https: URL (RFC 8058)."""
    on_unknown: Literal["repeat", "hold"] = key("repeat")
    """What to do when an answer is lost and the provider honours no idempotency keys: `repeat` sends once more (a
    duplicate reminder is better than a missed deadline), `hold` leaves the delivery `unknown`."""
    resend: ResendSettings = ResendSettings()
    sendgrid: SendgridSettings = SendgridSettings()
    postmark: PostmarkSettings = PostmarkSettings()
    mailgun: MailgunSettings = MailgunSettings()
    ses: SesSettings = SesSettings()
    gmail: GmailSettings = GmailSettings()
    smtp: SmtpSettings = SmtpSettings()

    @property
    def providers(self) -> tuple[str, ...]:
        """Return the configured providers, the preferred one first."""
        return (self.provider, self.fallback) if self.fallback else (self.provider,)

    @property
    def sender_mailbox(self) -> Mailbox:
        """`sender`, parsed; if it is empty, which is allowed before anything is sent, a placeholder."""
        return parse_mailbox(self.sender) if self.sender else Mailbox(Address("nobody@localhost"))

    def conflicts(self) -> Iterator[Conflict]:
        if self.fallback == self.provider:
            yield ("fallback", "provider"), f'"{self.fallback}" is the provider itself (another one, or "")'


@attrs.frozen
class PushSettings(Table):
    """[push]: Web Push."""

    enabled: bool = key(default=True)
    """False: no push is planned."""
    vapid_private_key: str = key("", checks.optional(checks.VAPID_KEY), secret=True)
    """The key for push services, from `notifierd vapid`. After a change, all devices have to subscribe again."""
    subject: str = key("", checks.optional(checks.CONTACT), private=True)
    """The contact for push services, a mailto: or https: URL; empty: mailto: with the address of `email.sender`."""
    urgency: Literal["very-low", "low", "normal", "high"] = key("normal")
    """Whether to wake a device in power-saving mode (RFC 8030, section 5.3)."""
    icon: str = key("/icon-192.png")
    """The image of the notification, a path on the application's origin or a URL; empty: none."""
    badge: str = key("/icon-192.png")
    """The small image in Android's status bar; empty: none."""
    allowed_hosts: tuple[str, ...] = key(
        ("fcm.googleapis.com", "*.push.services.mozilla.com", "*.notify.windows.com", "*.push.apple.com"), checks.HOSTS
    )
    """The push services that may be called; endpoints come from browsers. `*.` stands for any subdomain."""
    devices_per_person: int = key(20, within(1, 100))
    """How many devices of a person get pushes: the newest ones do. The log names each person who has more devices."""
    declarative: bool = key(default=False)
    """Whether a push also has the members of Declarative Web Push. A browser that knows them shows the push without the
    application's service worker; a click opens `content.dashboard_url`, which is then required."""
    allow_private_addresses: bool = key(default=False)
    """True, for tests only, allows private addresses, http:// and any port."""


@attrs.frozen
class ContentSettings(Table):
    """[content]: what the messages say."""

    language: Language = key("ja")
    """The language of the messages, and of the alarms."""
    product: str = key("keikakun", checks.LABEL)
    """The application's name, as its users know it."""
    dashboard_url: str = key("", checks.optional(checks.HTTP_URL))
    """The target of the link in a mail, and of a declarative push; empty: no link."""
    templates: str = key("", checks.optional(checks.FOLDER), path=True)
    """A folder of templates that replace the built-in ones of the same name; empty: the built-in ones."""
    overdue: bool = key(default=True)
    """Whether to notify staff of renewals whose day has come or passed."""
    horizon_days: int = key(30, within(0, 366), unit="days")
    """How far ahead to look for deadlines; each staff member's own threshold applies within that. 0: up to today."""
    renewal_days: tuple[int, ...] = key((), checks.RENEWAL_DAYS, unit="days left")
    """When staff are written to about a renewal: on the first run on or after each of these days left, and on the first
    one within their threshold. Empty: on every business day."""
    overdue_weekdays: tuple[Weekday, ...] = key(())
    """When staff are written to about an overdue renewal: on the first run on which it is overdue, and on the first one
    on or after each of these weekdays. Empty: on every business day."""
    assessment_weekdays: tuple[Weekday, ...] = key(())
    """When staff are written to about a missing assessment: on the first run on or after each of these weekdays. Empty:
    on every business day."""
    audit: Audit = key("each")
    """What the application's audit log gets. `each`: a row for each mail, and one for each staff member with a push.
    `office`: one row for each office and day, with the numbers of staff, mails and pushes. `none`: no row."""


@attrs.frozen
class SafetySettings(Table):
    """[safety]: for tests beside a live system. These keys keep a staging copy from sending mail to staff."""

    redirect_to: str = key("", checks.optional(checks.ADDRESS), private=True)
    """The one address that receives all mail instead; empty: mail goes to its recipients."""
    only_offices: tuple[UUID, ...] = key(())
    """The only offices to process; empty: all."""
    database_id: str = key("", checks.DIGITS)
    """Send only if the database cluster has this system identifier (`select system_identifier from
    pg_control_system()`); empty: any."""


@attrs.frozen
class HttpSettings(Table):
    """[http]: health, metrics, and the page for people."""

    enabled: bool = key(default=True)
    """False: do not listen."""
    bind: str = key("127.0.0.1:9464", checks.BIND)
    """Where to listen, host:port; port 0: any free one. An address beyond loopback needs a token."""
    token: str = key("", checks.TOKEN, secret=True)
    """The token that the page and the metrics require; empty: none."""
    hosts: tuple[str, ...] = key((), checks.NAMES)
    """Other host names of the page, such as a reverse proxy's; addresses and localhost are not needed here."""

    @property
    def address(self) -> tuple[str, int]:
        return checks.parse_bind(self.bind)

    def conflicts(self) -> Iterator[Conflict]:
        if self.enabled and not self.token and not checks.is_loopback(self.address[0]):
            why = f"required, because {self.bind} is reachable from beyond this machine"
            yield ("token", "bind", "enabled"), f"{why} (or bind to 127.0.0.1 or [::1])"


@attrs.frozen
class LogSettings(Table):
    """[log]: the log on stderr."""

    format: Literal["auto", "json", "text"] = key("auto")
    """`auto`: readable on a terminal, JSON lines otherwise."""
    level: Literal["debug", "info", "warning", "error"] = key("info")
    """The lowest level that is logged."""


@attrs.frozen
class WatchSettings(Table):
    """[watch]: where alarms and the results of runs are sent."""

    webhook_url: str = key("", checks.optional(checks.HTTP_URL), secret=True)
    """The URL to which alarms are posted; empty: none. A secret, because anybody who knows such a URL can post. For
    Chatwork: https://api.chatwork.com/v2/rooms/ROOM/messages."""
    format: WebhookFormat = key("slack")
    """What the receiver understands. `slack`: JSON of Slack's incoming webhooks, which Mattermost and Rocket.Chat
    read, too. `teams`: a card for a webhook of the Workflows app in Microsoft
    Teams. `chatwork`: a message to a room of Chatwork. `lineworks`: a message for the Incoming Webhook app of LINE
    WORKS."""
    webhook_token: str = key("", checks.TOKEN, secret=True)
    """The API token of the Chatwork account that posts; for the format `chatwork` only."""
    ping_url: str = key("", checks.optional(checks.HTTP_URL), secret=True)
    """The URL of a dead man's switch, such as a check at healthchecks.io. It is called with `/start` when a run begins,
    with `/fail` when it failed, and unchanged after a good run and on a closed day; empty: none."""
    failure_ratio: float = key(0.05, within(0, 1), unit="of a run's deliveries")
    """An alarm is raised if this share of the deliveries fails; 0: if any fails."""
    run_seconds: float = key(600.0, within(0, 86_400), unit="seconds")
    """An alarm is raised if a run takes longer than this; 0: never."""
    bounce_ratio: float = key(0.02, within(0, 1), unit="of the mails of seven days")
    """An alarm is raised if this share of at least 200 mails bounced, as far as the providers tell; 0: never."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.format == "chatwork" and self.webhook_url and not self.webhook_token:
            why = 'required, because watch.format = "chatwork": Chatwork accepts a message with a token only'
            yield ("webhook_token", "format", "webhook_url"), why


@attrs.frozen
class ClusterSettings(Table):
    """[cluster]: several daemons on one database."""

    share: bool = key(default=False)
    """Whether processes share the day; the limits on calls are then those of all of them together. False: one of them
    runs the day, and the others stand by."""
    name: str = key("")
    """The name of this process' machine in the list of members; empty: the host name."""
    renew_seconds: float = key(2.0, within(0.5, 5), unit="seconds")
    """How often a process renews its lease on the day, which lasts 15 seconds."""


@attrs.frozen
class Settings(Table):
    """The whole configuration."""

    window: WindowSettings = WindowSettings()
    limits: LimitsSettings = LimitsSettings()
    database: DatabaseSettings = DatabaseSettings()
    network: NetworkSettings = NetworkSettings()
    email: EmailSettings = EmailSettings()
    push: PushSettings = PushSettings()
    content: ContentSettings = ContentSettings()
    safety: SafetySettings = SafetySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    watch: WatchSettings = WatchSettings()
    cluster: ClusterSettings = ClusterSettings()

    def conflicts(self) -> Iterator[Conflict]:
        if self.push.declarative and not self.content.dashboard_url:
            why = "required, because push.declarative is true, and it is the page that a notification then opens"
            yield ("content.dashboard_url", "push.declarative"), f"{why} (or set push.declarative = false)"

    @property
    def push_subject(self) -> str:
        """The ``sub`` of RFC 8292, section 2.1: `push.subject`, or the sender's address."""
        if self.push.subject:
            return checks.ascii_contact(self.push.subject)
        return checks.mailto(self.email.sender_mailbox.address)
