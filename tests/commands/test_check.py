"""``notifierd check``: one line for each thing to mend, named; nothing sent, nothing written, no secret shown."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from attrs import evolve
from cryptography.x509 import load_pem_x509_certificate

from notifierd.commands.check import check
from notifierd.commands.finding import Finding, Level, exit_code
from notifierd.config.providers import (
    MailgunSettings,
    PostmarkSettings,
    ResendSettings,
    SendgridSettings,
    SmtpSettings,
)
from notifierd.config.settings import (
    ContentSettings,
    DatabaseSettings,
    EmailSettings,
    HttpSettings,
    LimitsSettings,
    NetworkSettings,
    Provider,
    PushSettings,
    SafetySettings,
    Settings,
    WatchSettings,
)
from notifierd.demo.application import rows_sql
from notifierd.demo.postgres import Cluster
from notifierd.rules.calendar import Calendar
from notifierd.send.vapid import Vapid
from notifierd.store.connection.advice import advice
from tests.support.application import OwnPath
from tests.support.certificates import certificate
from tests.support.checked_database import PRIVATE_KEY, PUBLIC_KEY, Place, open_place, settings_for
from tests.support.loopback import Handler, serving
from tests.support.processes import invent


@pytest.fixture
async def place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    async with open_place(cluster, database) as place:
        yield place


async def test_all_is_good(place: Place) -> None:
    """Every subject has its line, and none is to be mended."""
    findings = await check(place.settings)
    assert [finding for finding in findings if finding.level is not Level.OK] == []
    assert exit_code(findings) == 0
    assert list(dict.fromkeys(finding.subject for finding in findings)) == [
        "config",
        "push.vapid_private_key",
        "email.resend",
        "email.resend.feedback",
        "watch.webhook_url",
        "watch.ping_url",
        "network.proxy",
        "network.ca_file",
        "http.bind",
        "database",
        "encoding",
        "clock",
        "database.pooler",
        "connection",
        "safety.database_id",
        "schema",
        "rights",
        "index",
        "notifierd.offices",
        "notifierd.staff",
        "notifierd.alerts",
        "notifierd.devices",
        "notifierd.audit_log",
        "push.allowed_hosts",
    ]
    assert any(PUBLIC_KEY in finding.text for finding in findings)
    assert Vapid(PRIVATE_KEY, "mailto:x@example.jp").public_key == PUBLIC_KEY


async def test_the_values_of_an_example_are_named(place: Place) -> None:
    place.settings = evolve(
        place.settings,
        email=EmailSettings(sender="keikakun <desk@example.jp>", resend=ResendSettings(api_key="re_xxx")),
        content=ContentSettings(dashboard_url="https://app.example.jp/"),
    )
    assert await place.trouble() == [
        ("email.resend.api_key", "bad", "is the placeholder of an example: set your own"),
        ("email.sender", "bad", "is in a domain that is reserved for examples: set your own"),
        ("content.dashboard_url", "warn", "is in a domain that is reserved for examples: set your own"),
    ]
    assert "config" not in {finding.subject for finding in await check(place.settings)}


async def test_nothing_is_written(place: Place) -> None:
    """Not a row, not a number of a sequence, not a transaction id."""
    await place.sql("create sequence numbers; alter table audit_logs add column n int default nextval('numbers')")

    async def traces() -> list[object]:
        (row,) = await OwnPath(place.admin).fetch(
            """
            select (select count(*) from audit_logs), (select is_called from numbers),
                   pg_snapshot_xmax(pg_current_snapshot())::text
            """
        )
        return list(row)

    before = await traces()
    assert await place.trouble() == []
    assert await traces() == before


async def test_a_database_without_schema(place: Place) -> None:
    await place.sql("drop schema notifierd cascade")
    trouble = await place.trouble()
    assert trouble[0] == ("schema", "bad", "the schema notifierd is not in this database: run `notifierd db init`")
    assert len(trouble) == 6
    assert exit_code([Finding(subject, Level(level), text) for subject, level, text in trouble]) == 2


async def test_the_database_has_to_be_the_right_one(place: Place) -> None:
    """A staging copy never mails: another identifier is bad, and the right one is told."""
    (row,) = await place.admin.fetch("select system_identifier::text as id from pg_control_system()")
    found = {finding.subject: finding for finding in await check(place.settings)}["safety.database_id"]
    assert (found.level, found.text) == (Level.OK, f"not set; the identifier of this cluster is {row['id']}")
    place.settings = evolve(place.settings, safety=SafetySettings(database_id=row["id"]))
    assert await place.trouble() == []
    place.settings = evolve(place.settings, safety=SafetySettings(database_id="7"))
    assert await place.trouble() == [
        ("safety.database_id", "bad", f"is 7, but the identifier of this cluster is {row['id']}: nothing will be sent")
    ]
    await place.sql("revoke execute on function pg_control_system from public")
    trouble = "the role may not read the cluster's identifier (database_refused:42501): "
    remedy = "grant execute on pg_control_system()"
    assert await place.trouble() == [("safety.database_id", "bad", trouble + remedy)]
    place.settings = evolve(place.settings, safety=SafetySettings())
    assert await place.trouble() == [("safety.database_id", "warn", trouble + remedy)]


async def test_a_plan_that_the_limits_have_no_room_for_is_named(place: Place, cluster: Cluster, database: str) -> None:
    """Four mails of two offices are due on the next business day."""
    rows = invent(2, day=Calendar(place.settings.window).next_window(datetime.now(UTC)).day)
    cluster.psql(rows_sql(rows), database.partition("?")[0].rpartition("/")[2])
    near, far = (str(office.id) for office in rows.offices)
    for limits, found in [
        (LimitsSettings(email_per_day=4, email_per_second=1.0), []),
        (LimitsSettings(email_per_day=3), [f"1 mail of 1 office (limits.email_per_day) out of 4 mails: {far}"]),
        (
            LimitsSettings(email_per_day=1),
            [f"3 mails of 2 offices (limits.email_per_day) out of 4 mails: {near}, {far}"],
        ),
    ]:
        place.settings = evolve(place.settings, limits=limits)
        trouble = await place.trouble()
        assert [text.partition(": ")[2] for _, _, text in trouble] == found
        assert {(subject, level) for subject, level, _ in trouble} <= {("limits.email_per_day", "bad")}


async def test_a_provider_that_allows_little_wants_its_limits_set(place: Place) -> None:
    place.settings = evolve(place.settings, email=evolve(place.settings.email, provider="gmail"))
    assert [(subject, level) for subject, level, _ in await place.trouble()][-2:] == [
        ("limits.email_per_second", "warn"),
        ("limits.email_per_day", "warn"),
    ]


async def test_what_is_meant_for_trying_out_is_told(place: Place) -> None:
    rows = await OwnPath(place.admin).fetch(
        """
        with author as (
            insert into staffs (email, hashed_password, full_name, role, is_email_verified, is_mfa_enabled,
                is_mfa_verified_by_user, mfa_backup_codes_used, failed_password_attempts, is_locked, is_deleted,
                is_test_data)
            values ('a@example.jp', '', '', 'owner', true, false, false, 0, 0, false, false, false) returning id
        )
        insert into offices (name, is_group, type, created_by, last_modified_by, is_deleted, is_test_data)
        select '', false, 'type_A_office', id, id, false, false from author returning id
        """
    )
    absent = uuid4()
    place.settings = evolve(
        place.settings,
        safety=SafetySettings(redirect_to="inbox@keikakun-mihon.jp", only_offices=(rows[0]["id"], absent)),
        push=evolve(place.settings.push, allow_private_addresses=True),
    )
    assert await place.trouble() == [
        ("safety.redirect_to", "warn", "all mail goes to one address"),
        ("push.allow_private_addresses", "warn", "pushes may go to private addresses, and over http"),
        ("safety.only_offices", "warn", "only 1 office can be notified"),
        ("safety.only_offices", "bad", f"{absent} is not in notifierd.offices"),
    ]


async def test_devices_that_will_not_be_pushed_to_are_counted(place: Place) -> None:
    """By origin, the commonest first; an endpoint is a secret, and a password in one too."""
    await place.sql(
        """
        drop view notifierd.devices;
        create table devices (id uuid, staff_id uuid, endpoint text, p256dh text, auth text);
        create view notifierd.devices as select * from devices;
        """
        f"grant select, delete on notifierd.devices to {place.role}"
    )
    endpoints = {
        "https://fcm.googleapis.com/secret-path/{}": 2,
        "https://fcm.googleapis.com/ secret-path": 1,
        "https://FCM.googleapis.com:443/secret-path/{}": 2,
        "https://eu.push.apple.com/secret-path/{}": 1,
        "https://push.apple.com/secret-path/{}": 4,
        "http://fcm.googleapis.com/secret-path/{}": 3,
        "https://fcm.googleapis.com:8443/secret-path/{}": 2,
        "https://user:pass@fcm.googleapis.com/secret-path/{}": 2,
        "https://fcm.googleapis.com@evil.example/secret-path/{}": 1,
        "/secret-path/{}": 5,
        "": 1,
        "https://10.0.0.1/secret-path": 1,
    }
    for endpoint, number in endpoints.items():
        for n in range(number):
            await OwnPath(place.admin).fetch("insert into devices (endpoint) values ($1)", endpoint.format(n))
    ((subject, level, text),) = await place.trouble()
    assert (subject, level) == ("push.allowed_hosts", "warn")
    assert text == (
        "19 of 25 devices will get no push, at no URL (6), https://push.apple.com (4), "
        "http://fcm.googleapis.com (3), https://fcm.googleapis.com (2), https://fcm.googleapis.com:8443 (2) and 2 more"
    )
    await place.sql("delete from devices where endpoint not like 'https://fcm.googleapis.com/%'")
    findings = {finding.subject: finding for finding in await check(place.settings)}
    assert findings["push.allowed_hosts"].text == "covers all devices (3)"
    off = evolve(place.settings, push=PushSettings(enabled=False))
    findings = {finding.subject: finding for finding in await check(off)}
    assert findings["push"].text == "switched off"
    assert "push.allowed_hosts" not in findings


async def test_of_the_receivers_the_hosts_are_shown_and_no_more(place: Place) -> None:
    hook, ping = (
        "https://hooks.keikakun-mihon.jp:8443/services/T0/B0/secret",
        "http://ping.keikakun-mihon.jp/secret?create=1",
    )
    place.settings = evolve(place.settings, watch=WatchSettings(webhook_url=hook, ping_url=ping))
    findings = [finding for finding in await check(place.settings) if finding.subject.startswith("watch.")]
    assert findings == [
        Finding("watch.webhook_url", Level.OK, "is at hooks.keikakun-mihon.jp"),
        Finding("watch.ping_url", Level.WARN, "is at ping.keikakun-mihon.jp, unencrypted"),
    ]


async def test_a_format_that_the_receiver_does_not_understand_is_named_without_the_url(place: Place) -> None:
    hook = "https://hooks.slack.com/services/T0/B0/secret"
    place.settings = evolve(place.settings, watch=WatchSettings(webhook_url=hook, format="teams"))
    found = [finding for finding in await check(place.settings) if finding.subject == "watch.format"]
    text = 'does not understand watch.format = "teams": write watch.format = "slack"'
    assert found == [Finding("watch.format", Level.WARN, f"hooks.slack.com {text}")]


async def network_findings(place: Place, **network: Any) -> list[Finding]:
    place.settings = evolve(place.settings, network=NetworkSettings(**network))
    return [finding for finding in await check(place.settings) if finding.subject.startswith("network.")]


async def test_the_proxy_is_named_without_its_password(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def said(proxy: str) -> str:
        finding, *_ = await network_findings(place, proxy=proxy)
        assert (finding.subject, finding.level) == ("network.proxy", Level.OK)
        return finding.text

    assert await said("") == await said("environment") == "calls are made directly"
    assert await said("http://proxy:3128") == "calls go through http://proxy:3128, without a user"
    secret = "http://user:secret@proxy:3128"
    assert await said(secret) == "calls go through http://proxy:3128, with a user and a password"
    monkeypatch.setenv("HTTPS_PROXY", secret)
    assert await said("environment") == (
        "calls go through http://proxy:3128 (from HTTPS_PROXY), with a user and a password"
    )
    assert await said("") == ('calls are made directly, although HTTPS_PROXY is set ("environment" would honour it)')
    monkeypatch.setenv("HTTPS_PROXY", "https://user:secret@proxy:3128")
    assert "secret" not in await said("")


@pytest.mark.parametrize(
    ("days", "level", "text"),
    [
        ((-1, 90), Level.OK, "1 certificates in {file} are trusted; the first one expires on {until}"),
        ((-1, 13), Level.WARN, "a certificate in {file} expires on {until}: replace it"),
        ((-9, -1), Level.WARN, "a certificate in {file} expired on {until}: replace it"),
    ],
)
async def test_certificates_that_expire_soon_are_warned_of(
    place: Place, tmp_path: Path, days: tuple[int, int], level: Level, text: str
) -> None:
    file = certificate(tmp_path / "ca.pem", days=days)
    _, store, found = await network_findings(place, ca_file=str(file))
    until = load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    assert found == Finding("network.ca_file", level, text.format(file=file, until=f"{until:%Y-%m-%d}"))
    assert (store.level, store.text.endswith("are trusted as well")) == (Level.OK, True)


async def test_a_system_without_certificates_is_told(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    _, store = await network_findings(place)
    assert (store.subject, store.level) == ("network.ca_file", Level.WARN)
    assert "no certificates" in store.text


async def test_a_superuser_is_advised_against(place: Place, database: str) -> None:
    place.settings = settings_for(database)
    remedy = "use another role, to which `notifierd db init --role NAME` grants what it needs"
    assert await place.trouble() == [("role", "warn", f"postgres is a superuser: {remedy}")]


@pytest.mark.parametrize(
    ("dsn", "level", "subject", "text"),
    [
        ("{nowhere}", "away", "database", f"unreachable (3D000): {advice('3D000')}"),
        ("{nobody}", "away", "database", f"unreachable (28000): {advice('28000')}"),
        (
            "postgresql://user:pass@127.0.0.1:1/x",
            "away",
            "database",
            f"unreachable (ConnectionRefusedError): {advice('ConnectionRefusedError')}",
        ),
        (
            "postgres://user:pass@127.0.0.1/x?sslmode=require&sslcert=/nowhere.pem",
            "bad",
            "database.dsn",
            "sslcert: /nowhere.pem cannot be read (No such file or directory)",
        ),
    ],
)
async def test_a_database_out_of_reach(cluster: Cluster, dsn: str, level: str, subject: str, text: str) -> None:
    where = dsn.format(nowhere=cluster.dsn("nowhere"), nobody=cluster.dsn(user="nobody_there"))
    findings = await check(settings_for(where))
    assert [f for f in findings if f.level is not Level.OK] == [Finding(subject, Level(level), text)]
    assert exit_code(findings) == (3 if level == "away" else 2)
    # What is wrong besides is told too, and weighs more.
    findings = await check(Settings(database=DatabaseSettings(dsn=where), http=HttpSettings(enabled=False)))
    always = {"watch.webhook_url", "watch.ping_url", "network.proxy", "network.ca_file"}
    assert {finding.subject for finding in findings} == {"config", "http", subject} | always
    assert exit_code(findings) == 2


async def test_a_role_that_may_not_connect(place: Place) -> None:
    name = place.settings.database.dsn.partition("?")[0].rpartition("/")[2]
    await place.sql(f"revoke connect on database {name} from public")
    assert await place.trouble() == [("database", "away", f"unreachable (42501): {advice('42501')}")]


def resend(url: str) -> Callable[[Settings], Settings]:
    return lambda s: evolve(s, email=evolve(s.email, resend=ResendSettings(api_key="re_secret", base_url=url)))


def through(provider: Provider, **table: Any) -> Callable[[Settings], Settings]:
    return lambda s: evolve(s, email=EmailSettings(sender="desk@keikakun-mihon.jp", provider=provider, **table))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (through("postmark", postmark=PostmarkSettings(server_token="re_secret")), []),
        (
            through("postmark", postmark=PostmarkSettings(base_url="http://mail.example", server_token="re_secret")),
            [("email.postmark", "warn", "the key and all mails go to http://mail.example")],
        ),
        (
            through("postmark", postmark=PostmarkSettings()),
            [("config", "bad", "email.postmark.server_token: required for sending through postmark")],
        ),
        (through("sendgrid", sendgrid=SendgridSettings(api_key="re_secret")), []),
        (
            through("sendgrid", sendgrid=SendgridSettings()),
            [("config", "bad", "email.sendgrid.api_key: required for sending through sendgrid")],
        ),
        (through("mailgun", mailgun=MailgunSettings(api_key="re_secret", domain="mg.keikakun-mihon.jp")), []),
        (
            through("mailgun", mailgun=MailgunSettings(api_key="re_secret")),
            [("config", "bad", "email.mailgun.domain: required for sending through mailgun")],
        ),
        (through("smtp", smtp=SmtpSettings(host="smtp.keikakun-mihon.jp")), []),
        (
            through("smtp", smtp=SmtpSettings()),
            [("config", "bad", "email.smtp.host: required for sending through smtp")],
        ),
        (resend("http://mail.example"), [("email.resend", "warn", "the key and all mails go to http://mail.example")]),
        (resend("http://127.0.0.1:8025"), []),
        (
            lambda s: evolve(s, email=EmailSettings(sender="desk@keikakun-mihon.jp")),
            [("config", "bad", "email.resend.api_key: required for sending through resend")],
        ),
        (
            lambda s: evolve(s, email=evolve(s.email, fallback="mailgun")),
            [
                ("config", "bad", "email.mailgun.api_key: required"),
                ("config", "bad", "email.mailgun.domain: required"),
            ],
        ),
        (
            lambda s: evolve(s, push=PushSettings()),
            [("config", "bad", "push.vapid_private_key: required for push")],
        ),
        (lambda s: evolve(s, push=evolve(s.push, subject="https://example.jp/contact")), []),
    ],
)
async def test_settings_are_looked_at(
    place: Place, change: Callable[[Settings], Settings], found: list[tuple[str, str, str]]
) -> None:
    place.settings = change(place.settings)
    trouble = await place.trouble()
    assert [(subject, level) for subject, level, _ in trouble] == [(subject, level) for subject, level, _ in found]
    assert all(text.startswith(start) for (_, _, text), (_, _, start) in zip(trouble, found, strict=True)), trouble


# The page ------------------------------------------------------------------------------------------------------------


async def test_a_port_that_another_program_has_is_a_warning_and_that_of_a_daemon_is_none(place: Place) -> None:
    async def shut(stream: trio.SocketStream) -> None:
        await stream.aclose()

    def answering(answer: bytes) -> Handler:
        async def once(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.send_all(answer)

        return once

    async def found(settings: Settings) -> tuple[str, str]:
        (finding,) = (one for one in await check(settings) if one.subject == "http.bind")
        return finding.level.value, finding.text

    for handler, level, text in (
        (shut, "warn", "the page cannot be served at {bind} (EADDRINUSE); runs are not affected"),
        (answering(b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\n"), "warn", "the page cannot be served at"),
        (answering(b"HTTP/1.1 200 OK\r\nserver: notifierd\r\n\r\n"), "ok", "a daemon serves its page at {bind}"),
    ):
        async with serving(handler) as port:
            bind = f"127.0.0.1:{port}"
            level_now, text_now = await found(evolve(place.settings, http=HttpSettings(bind=bind)))
            assert (level_now, text_now[: len(text.format(bind=bind))]) == (level, text.format(bind=bind))
    assert await found(evolve(place.settings, http=HttpSettings(bind="192.0.2.1:9464", token="t"))) == (
        "warn",
        "the page cannot be served at 192.0.2.1:9464 (EADDRNOTAVAIL); runs are not affected",
    )
    off = await check(evolve(place.settings, http=HttpSettings(enabled=False)))
    assert Finding("http", Level.OK, "switched off") in off
