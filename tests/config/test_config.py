"""The configuration: defaults, precedence, and one line for each mistake."""

import ast
import inspect
import re
import tomllib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config import checks
from notifierd.config import settings as settings_module
from notifierd.config.checks import parse_vapid_key
from notifierd.config.keys import key_of
from notifierd.config.load import keys, load, missing_for_sending, parse, variable
from notifierd.config.providers import SesSettings
from notifierd.config.settings import HttpSettings, LimitsSettings, Settings
from notifierd.config.sources import find_config, origin
from notifierd.model.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config.toml"
SERVICE = {
    "NOTIFIERD_SERVICE_HOST": "10.0.0.11",
    "NOTIFIERD_SERVICE_PORT": "9464",
    "NOTIFIERD_SERVICE_PORT_HTTP": "9464",
    "NOTIFIERD_PORT": "tcp://10.0.0.11:9464",
    "NOTIFIERD_PORT_9464_TCP": "tcp://10.0.0.11:9464",
    "NOTIFIERD_PORT_9464_TCP_PROTO": "tcp",
    "NOTIFIERD_PORT_9464_TCP_PORT": "9464",
    "NOTIFIERD_PORT_9464_TCP_ADDR": "10.0.0.11",
}
"""What Kubernetes sets for a Service named notifierd."""

INJECTED = SERVICE | {
    "NOTIFIERD_METRICS_SERVICE_HOST": "10.0.0.12",
    "NOTIFIERD_METRICS_SERVICE_PORT": "9464",
    "NOTIFIERD_METRICS_PORT": "udp://[fd00::12]:9464",
    "NOTIFIERD_METRICS_PORT_9464_UDP_ADDR": "fd00::12",
    "NOTIFIERD_NAME": "/web/notifierd",
    "NOTIFIERD_ENV_CREDENTIALS_DIRECTORY": "/run/secrets",
    "NOTIFIERD_ENV_text": "two\nlines",
}
"""The same for a Service named notifierd-metrics, and what Docker sets for a linked container."""

EVERY_KEY = dict(keys())


def read(toml: str = "", environ: Mapping[str, str] | None = None, folder: Path = Path()) -> Settings:
    return parse(tomllib.loads(toml), environ or {}, folder)


def problems(toml: str = "", environ: Mapping[str, str] | None = None, folder: Path = Path()) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(toml, environ, folder)
    return caught.value.problems


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------ the annotated example


def test_the_annotated_example_is_the_defaults():
    assert load(EXAMPLE, {}) == Settings()


def test_the_annotated_example_names_every_key_in_the_order_of_the_classes():
    def paths(table: Mapping[str, object], prefix: str = "") -> list[str]:
        found = []
        for name, value in table.items():
            found += paths(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
        return found

    assert paths(tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))) == list(EVERY_KEY)


def test_an_empty_file_is_the_defaults():
    assert read() == Settings()


def test_every_key_says_what_it_does():
    """A text stands below each key, for the manual."""
    for table in ast.parse(inspect.getsource(settings_module)).body:
        if isinstance(table, ast.ClassDef):
            for statement, below in zip(table.body, [*table.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).endswith("Settings"):
                    assert isinstance(below, ast.Expr), ast.unparse(statement)


def test_every_default_is_allowed():
    for dotted, field in EVERY_KEY.items():
        assert key_of(field).problem(field.default) is None, dotted


def test_no_two_keys_share_an_environment_variable():
    names = [variable(dotted) for dotted in EVERY_KEY]
    names += [f"{variable(dotted)}_FILE" for dotted, field in EVERY_KEY.items() if key_of(field).secret]
    assert len(set(names)) == len(names)


# ---------------------------------------------------------------------------------------------------- finding the file


def test_the_file_named_is_the_one_read_even_if_there_are_others(tmp_path):
    write(tmp_path / "config.toml", "limits.offices = 1")
    other = write(tmp_path / "other.toml", "limits.offices = 2")
    assert find_config(other, tmp_path, {}) == other
    assert load(other, {}).limits.offices == 2


def test_without_a_name_the_working_folder_comes_before_the_system(tmp_path, monkeypatch):
    system = write(tmp_path / "system.toml", "limits.offices = 3")
    assert find_config(None, tmp_path, {}, system) == system
    here = write(tmp_path / "config.toml", "limits.offices = 4")
    assert find_config(None, tmp_path, {}, system) == here
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).limits.offices == 4


def test_no_file_anywhere_is_an_error_that_tells_where_it_looked(tmp_path):
    for environ in ({}, SERVICE):
        with pytest.raises(ConfigError) as caught:
            find_config(None, tmp_path, environ, tmp_path / "etc" / "config.toml")
        (problem,) = caught.value.problems
        assert problem == (
            f"no configuration file: looked for {tmp_path}/config.toml and {tmp_path}/etc/config.toml (name one with "
            "--config FILE, copy notifierd's annotated config.toml to one of these places, or set environment "
            "variables, NOTIFIERD_EMAIL_SENDER and so on)"
        )


def test_without_a_file_the_environment_alone_is_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"NOTIFIERD_LIMITS_OFFICES": "5", **SERVICE}
    nowhere = tmp_path / "etc" / "config.toml"
    assert find_config(None, tmp_path, environ, nowhere) is None
    assert load(environ=environ) == read("limits.offices = 5")
    assert origin(None, environ) == "comes from 1 environment variable alone: there is no configuration file"
    with pytest.raises(ConfigError, match="no such file"):
        load(nowhere, environ)


def test_a_misspelt_variable_without_a_file_is_reported_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(environ={"NOTIFIERD_EMAIL_SENDR": "a@example.jp"})
    (problem,) = caught.value.problems
    assert problem.startswith("NOTIFIERD_EMAIL_SENDR: unknown environment variable")


def test_the_origin_names_the_file_and_counts_what_is_added_to_it(tmp_path):
    place = tmp_path / "config.toml"
    assert origin(place, SERVICE) == f"comes from {place}"
    environ = {"NOTIFIERD_LIMITS_OFFICES": "5", "NOTIFIERD_LIMITS_EMAIL": "5"}
    assert origin(place, environ) == f"comes from {place} and 2 environment variables"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _path: None, "no such file"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
        (lambda path: path.write_bytes(b'[email]\nsender = "\xe5"'), "is not UTF-8"),
    ],
)
def test_a_named_file_that_cannot_be_read_is_an_error(tmp_path, make, why):
    path = tmp_path / "some.toml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.problems == (f"{path}: {why}",)


def test_a_file_behind_a_loop_of_links_is_found_and_reported_rather_than_passed_over(tmp_path):
    loop = tmp_path / "config.toml"
    loop.symlink_to(loop)
    assert find_config(None, tmp_path, {}) == loop
    with pytest.raises(ConfigError, match="cannot be read"):
        load(loop, {})


def test_a_byte_order_mark_and_crlf_are_no_mistake(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[limits]\r\noffices = 7\r\n")
    assert load(path, {}).limits.offices == 7


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        ("[window]\nat = 09:00\n", r'line 2, column 7: .* \(write a time as 09:00:00 or "09:00"\)'),
        ("[window]\nuntil = 9:00 # noon\n", r'line 2, column 10: .* \(write a time as 09:00:00 or "09:00"\)'),
        ("[window]\ntimezone = Asia/Tokyo\n", "line 2, column 12: Invalid value"),
        ("[window", r"Expected '\]' at the end of a table declaration \(at end of document\)"),
    ],
)
def test_a_syntax_error_names_file_and_line_and_how_to_write_a_time(tmp_path, toml, why):
    path = write(tmp_path / "config.toml", toml)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    assert re.fullmatch(f"{re.escape(str(path))}: {why}", problem)


def test_a_number_of_thousands_of_digits_is_a_problem_and_no_traceback(tmp_path):
    path = write(tmp_path / "config.toml", f"limits.offices = {'9' * 5000}")
    with pytest.raises(ConfigError, match=r"config\.toml: "):
        load(path, {})


# -------------------------------------------------------------------------------------------------------- good values


def test_times_and_dates_may_stand_in_quotes():
    window = read("""
        [window]
        at = "08:30"
        until = "11:00:30"
        closed_dates = ["2026-12-29", 2026-12-30]
    """).window
    assert (window.at, window.until) == (time(8, 30), time(11, 0, 30))
    assert window.closed_dates == (date(2026, 12, 29), date(2026, 12, 30))


def test_a_whole_number_will_do_for_seconds():
    timeout = read("limits.send_timeout = 5").limits.send_timeout
    assert timeout == 5.0
    assert type(timeout) is float


def test_lists_become_tuples_of_their_type():
    settings = read("""
        window.closed_weekdays = ["sun"]
        safety.only_offices = ["8d3a7a0e-3f6b-4b43-9f7c-0d2f1a7f6c11"]
    """)
    assert settings.window.closed_weekdays == ("sun",)
    assert settings.safety.only_offices == (UUID("8d3a7a0e-3f6b-4b43-9f7c-0d2f1a7f6c11"),)


@pytest.mark.parametrize(
    "toml",
    [
        'email.sender = "no-reply@example.jp"',
        'email.sender = "個別支援計画 <no-reply@example.jp>"',
        'email.sender = "個別支援計画 <no-reply@例え.jp>"',
        'email.reply_to = "dev@mail.test"',
        'email.list_unsubscribe = "https://example.jp/stop?staff={staff_id}"',
        'email.list_unsubscribe = "mailto:stop@example.jp?subject=stop"',
        'email.list_unsubscribe = "https://example.jp/stop"',
        'email.fallback = "postmark"',
        'email.resend.base_url = "http://127.0.0.1:8025"',
        'email.resend.base_url = "http://[::1]:8025/api"',
        'push.subject = "mailto:ops@example.jp"',
        'push.subject = "https://example.jp/contact"',
        'push.allowed_hosts = ["localhost", "127.0.0.1", "[::1]", "*.example.jp"]',
        'window.holidays = ""',
        'window.holidays = "DE"',
        "window.closed_weekdays = []",
        "window.at = 22:00:00\nwindow.until = 02:00:00",
        'database.dsn = "postgres://app:p%40ss@db/app?sslmode=require"',
        'http.bind = "[::1]:9464"',
        'http.hosts = ["ops.example.jp", "ops1"]',
        'http.bind = "localhost:0"',
        'http.bind = "0.0.0.0:9464"\nhttp.token = "t0ken"',
        'http.bind = "0.0.0.0:9464"\nhttp.enabled = false',
        'content.dashboard_url = "https://app.example.jp/dashboard?from=mail#top"',
        'push.declarative = true\ncontent.dashboard_url = "https://app.example.jp/"',
        'safety.database_id = "7419283746192837465"',
        "watch.failure_ratio = 1",
        'watch.format = "teams"',
        'watch.format = "chatwork"\nwatch.webhook_url = "https://api.chatwork.com/"\nwatch.webhook_token = "t0ken"',
    ],
)
def test_what_an_operator_may_write_is_taken(toml):
    assert read(toml) != Settings()


def test_a_base_url_loses_its_last_slash():
    """Else a sender would ask for //emails, and be answered 404 for every mail."""
    settings = read('email.resend.base_url = "https://api.example/"\nemail.ses.base_url = "https://ses.example/v/"')
    assert settings.email.resend.base_url == "https://api.example"
    assert settings.email.ses.base_url == "https://ses.example/v"


def test_relative_paths_start_at_the_files_folder(tmp_path):
    (tmp_path / "ours").mkdir()
    write(tmp_path / "key", "re_1")
    path = write(tmp_path / "config.toml", 'content.templates = "ours"\nemail.resend.api_key_file = "key"')
    settings = load(path, {})
    assert settings.content.templates == str(tmp_path / "ours")
    assert settings.email.resend.api_key == "re_1"


def test_ses_is_called_in_its_region_unless_told_otherwise():
    assert SesSettings(region="eu-west-1").endpoint == "https://email.eu-west-1.amazonaws.com"
    assert SesSettings(base_url="http://localhost:8005").endpoint == "http://localhost:8005"


def test_the_bind_is_split_into_host_and_port():
    assert HttpSettings().address == ("127.0.0.1", 9464)
    assert HttpSettings(bind="[::1]:80").address == ("::1", 80)


@pytest.mark.parametrize(
    ("subject", "sender", "expected"),
    [
        ("", "Keikakun <no-reply@example.jp>", "mailto:no-reply@example.jp"),
        ("", "no-reply@example.jp", "mailto:no-reply@example.jp"),
        ("", "けいかくん <no-reply@例え.jp>", "mailto:no-reply@xn--r8jz45g.jp"),
        ("https://example.jp", "no-reply@example.jp", "https://example.jp"),
        ("mailto:ops@例え.jp", "no-reply@example.jp", "mailto:ops@xn--r8jz45g.jp"),
        ("https://例え.jp:8443/連絡?a=b", "no-reply@example.jp", "https://xn--r8jz45g.jp:8443/%E9%80%A3%E7%B5%A1?a=b"),
        ("https://example.jp/連絡", "no-reply@example.jp", "https://example.jp/%E9%80%A3%E7%B5%A1"),
        ("https://ｅｘａｍｐｌｅ。jp", "no-reply@example.jp", "https://example.jp"),
        ("https://example.jp/{a}|`b`?c=^#d", "no-reply@example.jp", "https://example.jp/%7Ba%7D%7C%60b%60?c=%5E#d"),
        ("https://example.jp/a%20b", "no-reply@example.jp", "https://example.jp/a%20b"),
        ("mailto:ops/a#b&c@example.jp", "no-reply@example.jp", "mailto:ops%2Fa%23b%26c@example.jp"),
        ("", "ops?a%b@example.jp", "mailto:ops%3Fa%25b@example.jp"),
    ],
)
def test_the_push_subject_is_the_senders_address_unless_given(subject, sender, expected):
    settings = read(f'push.subject = "{subject}"\nemail.sender = "{sender}"')
    assert settings.push_subject == expected


UNSEEN = "\x7f\x80\x9b\xad\u061c\u200b\u200d\u200e\u200f\u2028\u202a\u202e\u2060\u2066\u2069\ufeff\U000e0041"


@pytest.mark.parametrize(
    "subject",
    [
        *(f"mailto:ops{mark}@example.jp" for mark in (*UNSEEN, " ", "\u3000")),
        *(f"mailto:ops@exam{mark}ple.jp" for mark in (*UNSEEN, " ", "\u3000")),
        *(f"https://exam{mark}ple.jp/" for mark in (*UNSEEN, " ", "\u3000", "_", "%61", "|")),
        *(f"https://example.jp/a{mark}b" for mark in (*UNSEEN, " ", "\u3000", "%", "%0g", "%zz")),
        "mailto:ops%0d@example.jp",
        "mailto:ops@example.jp?subject=a",
        "mailto:a@example.jp,b@example.jp",
        "mailto:",
        "MAILTO:ops@example.jp",
        "HTTPS://example.jp",
        "http://example.jp",
        "https:example.jp",
        "https://",
        "https://user@example.jp",
        "https://user:password@example.jp",
        "https://例え@example.jp",
        "https://@example.jp",
        "https://example.jp:",
        "https://example.jp:0",
        "https://example.jp:99999",
        "https://localhost",
        "https://127.0.0.1",
        "https://[::1]",
        "https://[::1]例え.jp",
        "https://-example.jp",
        "https://xn--a.jp",
        f"https://{'a' * 64}.jp",
        f"https://example.jp/{'a' * 800}",
        f"https://example.jp/{'連' * 90}",
    ],
    ids=ascii,
)
def test_a_push_subject_that_a_push_service_may_refuse_is_refused_here(subject):
    """It refuses all pushes for it, with a 403 that names nothing."""
    with pytest.raises(ConfigError) as caught:
        parse({"push": {"subject": subject}}, {}, Path())
    assert caught.value.problems == (f"push.subject: the value is not {checks.CONTACT.allowed}",)


SHAPES = ["mailto:{}", "mailto:{}@example.jp", "mailto:ops@{}.jp", "https://{}.jp", "https://example.jp/{}"]


@given(st.sampled_from(SHAPES), st.text(max_size=30))
def test_whatever_push_subject_is_taken_is_visible_ascii_and_stays_the_same(shape, text):
    subject = shape.format(text)
    if not checks.CONTACT.passes(subject):
        return
    contact = checks.ascii_contact(subject)
    assert re.fullmatch(r"(mailto:[^@]+@|https://)[a-z0-9.-]+(:[0-9]+)?([/?#][!-~]*)?", contact)
    assert not set(contact) & set('"<>\\^`{|}')
    assert urlsplit(contact).username is None
    if shape.startswith("https"):
        assert checks.CONTACT.passes(contact)
        assert checks.ascii_contact(contact) == contact


# --------------------------------------------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        # what is not known
        ("limits.ofices = 3", 'limits.ofices: unknown key (did you mean "offices"?)'),
        ("limits.colour = 3", "limits.colour: unknown key"),
        ("[limit]\noffices = 3", 'limit: unknown table (did you mean "limits"?)'),
        ("offices = 3", "offices: unknown key"),
        ("[email.resent]", 'email.resent: unknown table (did you mean "resend"?)'),
        ('email.resend.api_key_fil = ""', 'email.resend.api_key_fil: unknown key (did you mean "api_key_file"?)'),
        ('email.sender_file = "x"', 'email.sender_file: unknown key (did you mean "sender"?)'),
        # other types
        ('limits.offices = "10"', "limits.offices: expected a whole number, not a string"),
        ("limits.offices = 10.0", "limits.offices: expected a whole number, not a number"),
        ("limits.offices = true", "limits.offices: expected a whole number, not true or false"),
        ("limits.send_timeout = true", "limits.send_timeout: expected a number, not true or false"),
        ("push.enabled = 1", "push.enabled: expected true or false, not a whole number"),
        ("email.sender = 5", "email.sender: expected a string, not a whole number"),
        ("email.provider = 5", 'email.provider: expected one of "resend", "sendgrid", "postmark", "mailgun", "ses", "gmail", "smtp", not a whole number'),  # noqa: E501
        ('window.closed_weekdays = "sat"', 'window.closed_weekdays: expected a list ([] or ["...", "..."]), not a string'),  # noqa: E501
        ("window.at = 9", 'window.at: expected a time (09:00:00 or "09:00"), not a whole number'),
        ("window.at = 2026-01-01", 'window.at: expected a time (09:00:00 or "09:00"), not a date (2026-12-29 or "2026-12-29")'),  # noqa: E501
        ("window.closed_dates = [2026-01-01T00:00:00]", 'window.closed_dates: expected a date (2026-12-29 or "2026-12-29"), not a date with a time'),  # noqa: E501
        ("safety.only_offices = [7]", "safety.only_offices: expected a UUID, not a whole number"),
        ("limits = 3", "limits: expected a table ([limits]), not a whole number"),
        ("email.resend = []", "email.resend: expected a table ([email.resend]), not a list"),
        ("email.resend.api_key_file = 3", "email.resend.api_key: expected a string, not a whole number"),
        # out of range
        ("limits.offices = 0", "limits.offices: 0 is out of range (1 to 100)"),
        ("limits.send_timeout = -1.5", "limits.send_timeout: -1.5 is out of range (0.1 to 600)"),
        ("watch.failure_ratio = nan", "watch.failure_ratio: nan is out of range (0 to 1)"),
        ("watch.run_seconds = inf", "watch.run_seconds: inf is out of range (0 to 86400)"),
        (f"watch.run_seconds = {10**400}", "watch.run_seconds: inf is out of range (0 to 86400)"),
        # of another form
        ('window.at = "9:00"', 'window.at: "9:00" is not a time (09:00:00 or "09:00")'),
        ('window.at = "25:00"', 'window.at: "25:00" is not a time (09:00:00 or "09:00")'),
        ('window.at = "09:00+09:00"', 'window.at: "09:00+09:00" is not a time (09:00:00 or "09:00")'),
        ("window.until = 09:00:00", "window.until: 09:00:00 is when the window opens (any other time is allowed)"),
        ('window.open_dates = ["2026-02-30"]', 'window.open_dates: "2026-02-30" is not a date (2026-12-29 or "2026-12-29")'),  # noqa: E501
        ('window.timezone = "Asia/Tokio"', 'window.timezone: "Asia/Tokio" is not a time zone such as Asia/Tokyo (did you mean "Asia/Tokyo"?)'),  # noqa: E501
        ('window.timezone = "Asia"', 'window.timezone: "Asia" is not a time zone such as Asia/Tokyo'),
        ('window.timezone = "/etc/passwd"', 'window.timezone: "/etc/passwd" is not a time zone such as Asia/Tokyo'),
        ('window.timezone = "Tokyo"', 'window.timezone: "Tokyo" is not a time zone such as Asia/Tokyo (did you mean "Asia/Tokyo"?)'),  # noqa: E501
        ('window.holidays = "Japan"', 'window.holidays: "Japan" is not a country code such as JP ("" for no public holidays) (did you mean "JP"?)'),  # noqa: E501
        ('window.holidays = "日本"', 'window.holidays: "日本" is not a country code such as JP ("" for no public holidays) (did you mean "JP"?)'),  # noqa: E501
        ('window.holidays = "united states"', 'window.holidays: "united states" is not a country code such as JP ("" for no public holidays) (did you mean "US"?)'),  # noqa: E501
        ('window.holidays = "Nippon"', 'window.holidays: "Nippon" is not a country code such as JP ("" for no public holidays)'),  # noqa: E501
        ('window.holidays = "jp"', 'window.holidays: "jp" is not a country code such as JP ("" for no public holidays) (did you mean "JP"?)'),  # noqa: E501
        ('window.closed_weekdays = ["sta"]', 'window.closed_weekdays: "sta" is not one of "mon", "tue", "wed", "thu", "fri", "sat", "sun" (did you mean "sat"?)'),  # noqa: E501
        ('window.closed_weekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]', 'window.closed_weekdays: ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] closes all seven days of the week (at most 6)'),  # noqa: E501
        ('email.provider = "resent"', 'email.provider: "resent" is not one of "resend", "sendgrid", "postmark", "mailgun", "ses", "gmail", "smtp" (did you mean "resend"?)'),  # noqa: E501
        ('email.fallback = "resend"', 'email.fallback: "resend" is the provider itself (another one, or "")'),
        ('email.on_unknown = "drop"', 'email.on_unknown: "drop" is not one of "repeat", "hold"'),
        ('email.resend.base_url = "ftp://x"', 'email.resend.base_url: "ftp://x" is not an http:// or https:// URL without query'),  # noqa: E501
        ('email.resend.base_url = "https://x?a=1"', 'email.resend.base_url: "https://x?a=1" is not an http:// or https:// URL without query'),  # noqa: E501
        ('email.resend.base_url = "https://x:99999"', 'email.resend.base_url: "https://x:99999" is not an http:// or https:// URL without query'),  # noqa: E501
        ('email.resend.base_url = "https://me:hush@x"', 'email.resend.base_url: "https://***@x" is not an http:// or https:// URL without query'),  # noqa: E501
        ('email.mailgun.domain = "mg"', 'email.mailgun.domain: "mg" is not a domain such as mg.example.jp'),
        ('email.ses.region = "Tokyo!"', 'email.ses.region: "Tokyo!" is not a region such as ap-northeast-1'),
        ('email.smtp.host = "mail.example.jp:587"', 'email.smtp.host: "mail.example.jp:587" is not a host name or an address, without a port'),  # noqa: E501
        ("email.smtp.port = 65536", "email.smtp.port: 65536 is out of range (1 to 65535)"),
        ('email.smtp.security = "ssl"', 'email.smtp.security: "ssl" is not one of "starttls", "tls", "none"'),
        ('email.smtp = {host = "mail.example.jp", security = "none"}', 'email.smtp.security: "none" is for a server on loopback ("starttls" or "tls")'),  # noqa: E501
        ('email.smtp = {host = "mail.example.jp", username = "hush"}', "email.smtp.password: is empty, and a login needs it"),  # noqa: E501
        ('push.urgency = "urgent"', 'push.urgency: "urgent" is not one of "very-low", "low", "normal", "high"'),
        ('push.allowed_hosts = ["a.example", "https://b.example"]', 'push.allowed_hosts: "https://b.example" is not a host in lower case, or *. and a domain'),  # noqa: E501
        ('http.hosts = ["ops.example.jp", "https://ops.example.jp"]', 'http.hosts: "https://ops.example.jp" is not a host name in lower case, without port'),  # noqa: E501
        ('http.hosts = ["ops.example.jp:443"]', 'http.hosts: "ops.example.jp:443" is not a host name in lower case, without port'),  # noqa: E501
        ('push.allowed_hosts = ["*"]', 'push.allowed_hosts: "*" is not a host in lower case, or *. and a domain'),
        ("push.declarative = true", "content.dashboard_url: required, because push.declarative is true, and it is the page that a notification then opens (or set push.declarative = false)"),  # noqa: E501
        ('push.declarative = true\ncontent.dashboard_url = "/dashboard"', 'content.dashboard_url: "/dashboard" is not an http:// or https:// URL'),  # noqa: E501
        ('content.language = "fr"', 'content.language: "fr" is not one of "ja", "en"'),
        ('content.product = "a\\nb"', 'content.product: "a\\nb" is not one line of text, free of control characters, of 1 to 60 characters'),  # noqa: E501
        ('content.product = ""', 'content.product: "" is not one line of text, free of control characters, of 1 to 60 characters'),  # noqa: E501
        ('content.templates = "/nowhere"', 'content.templates: "/nowhere" is not an existing folder'),
        ('content.dashboard_url = "app.example.jp"', 'content.dashboard_url: "app.example.jp" is not an http:// or https:// URL'),  # noqa: E501
        ('safety.only_offices = ["office 7"]', 'safety.only_offices: "office 7" is not a UUID'),
        ('safety.database_id = "main"', 'safety.database_id: "main" is not the digits of a PostgreSQL system identifier'),  # noqa: E501
        ('http.bind = "9464"', 'http.bind: "9464" is not host:port, such as 127.0.0.1:9464 or [::1]:9464'),
        ('http.bind = "localhost:99999"', 'http.bind: "localhost:99999" is not host:port, such as 127.0.0.1:9464 or [::1]:9464'),  # noqa: E501
        ('http.bind = "[::1::]:1"', 'http.bind: "[::1::]:1" is not host:port, such as 127.0.0.1:9464 or [::1]:9464'),
        ('http.bind = "0.0.0.0:9464"', "http.token: required, because 0.0.0.0:9464 is reachable from beyond this machine (or bind to 127.0.0.1 or [::1])"),  # noqa: E501
        ('http.bind = "[::]:9464"', "http.token: required, because [::]:9464 is reachable from beyond this machine (or bind to 127.0.0.1 or [::1])"),  # noqa: E501
        ('http.bind = "db.example:9464"', "http.token: required, because db.example:9464 is reachable from beyond this machine (or bind to 127.0.0.1 or [::1])"),  # noqa: E501
        ('watch.format = "discord"', 'watch.format: "discord" is not one of "slack", "teams", "chatwork", "lineworks"'),
        ('watch.format = "chatwork"\nwatch.webhook_url = "https://api.chatwork.com/v2/rooms/1/messages"', 'watch.webhook_token: required, because watch.format = "chatwork": Chatwork accepts a message with a token only'),  # noqa: E501
        ('log.format = "xml"', 'log.format: "xml" is not one of "auto", "json", "text"'),
        ('log.level = "loud"', 'log.level: "loud" is not one of "debug", "info", "warning", "error"'),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_key_what_is_wrong_and_what_is_allowed(toml, expected):
    assert problems(toml) == (expected,)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_mail_server_on_loopback_needs_no_tls(host):
    table = read(f'email.smtp = {{host = "{host}", security = "none", username = "u", password = "p w あ"}}').email.smtp
    assert (table.host, table.password) == (host, "p w あ")
    assert "p w" not in repr(table)


PRIVATE = "hush-hush\u3000"
"""No address, URL, key or token."""


@pytest.mark.parametrize(
    ("dotted", "why"),
    [
        ("email.sender", "is not an address (name@example.jp, or Name <name@example.jp>, in ASCII before the @)"),
        ("email.reply_to", "is not an address (name@example.jp, or Name <name@example.jp>, in ASCII before the @)"),
        (
            "email.list_unsubscribe",
            "is not mailto: with an address (and a subject, if you like), or an https:// URL, that fits a header",
        ),
        ("email.resend.api_key", "is not made of visible ASCII characters without spaces"),
        ("email.gmail.service_account", "is not the JSON key of a Google service account"),
        ("email.gmail.user", "is not an address (name@example.jp, in ASCII before the @)"),
        ("database.dsn", "is not of the form postgresql://user:password@host:5432/database"),
        ("push.vapid_private_key", "is not a VAPID private key (base64url or PEM, as `notifierd vapid` prints it)"),
        ("push.subject", f"is not {checks.CONTACT.allowed}"),
        ("safety.redirect_to", "is not an address (name@example.jp, in ASCII before the @)"),
        ("http.token", "is not made of visible ASCII characters without spaces"),
        ("watch.webhook_url", "is not an http:// or https:// URL"),
        ("watch.ping_url", "is not an http:// or https:// URL"),
    ],
)
def test_a_bad_secret_or_address_is_named_but_not_repeated(dotted, why):
    assert problems(f'{dotted} = "{PRIVATE}"') == (f"{dotted}: the value {why}",)


@pytest.mark.parametrize(
    "address",
    ["a@b@c.jp", "a@nodot", "a@localhost", "太郎@example.jp", "a..b@example.jp", "a@b.jp\\nBcc: c@d.jp", "a@x_y.jp"],
)
@pytest.mark.parametrize(
    "dotted",
    [
        "email.sender",
        "email.reply_to",
        "email.gmail.user",
        "safety.redirect_to",
        "push.subject",
        "email.list_unsubscribe",
    ],
)
def test_an_address_that_no_mail_can_be_sent_to_is_refused_at_the_start(dotted, address):
    """Else each and every office would fail for it, at nine o'clock."""
    scheme = "mailto:" if dotted in {"push.subject", "email.list_unsubscribe"} else ""
    (problem,) = problems(f'{dotted} = "{scheme}{address}"')
    assert problem.startswith(f"{dotted}: the value is not ")


@pytest.mark.parametrize(
    "sender",
    [
        "<a@b.jp",
        "A <a@b.jp> B",
        "A <>",
        "A\\nBcc: c@d.jp <a@b.jp>",
        "A <b@c.jp> <a@b.jp>",
        "=?utf-8?q?A?= <a@b.jp>",
        f"{'A' * 61} <a@b.jp>",
    ],
)
def test_a_sender_that_would_make_a_broken_header_is_refused(sender):
    assert problems(f'email.sender = "{sender}"')[0].startswith("email.sender: the value is not an address")


@pytest.mark.parametrize(
    ("host", "path", "taken"),
    [
        ("例え.jp", "", False),
        ("example.jp", "x" * 781, True),
        ("example.jp", "x" * 782, False),
        ("example.jp", "字" * 86, True),
        ("example.jp", "字" * 87, False),
    ],
)
def test_an_unsubscribe_url_has_to_fit_into_a_header(host, path, taken):
    """In ASCII: nine characters for each of Japanese."""
    toml = f'email.list_unsubscribe = "https://{host}/{path}"'
    if taken:
        assert read(toml).email.list_unsubscribe.endswith(path)
    else:
        (problem,) = problems(toml)
        assert problem.endswith("that fits a header")


@pytest.mark.parametrize("account", ["[]", '{"client_email": "a@b.jp"}', '{"client_email": "", "private_key": "x"}'])
def test_json_that_is_no_service_account_is_refused(account):
    (line,) = problems("", {"NOTIFIERD_EMAIL_GMAIL_SERVICE_ACCOUNT": account})
    assert line.startswith("email.gmail.service_account: the value is not the JSON key of a Google service account,")


def test_everything_wrong_is_said_at_once():
    """Also across tables, and a clash of keys beside a bad key; but no clash with a key that is itself bad."""
    toml = """
        [window]
        at = 12:00:00
        timezone = "Mars"
        [limits]
        offices = 0
        email = 0
        [email]
        provider = "smoke signals"
        fallback = "resend"
    """
    assert [line.partition(":")[0] for line in problems(toml, {"NOTIFIERD_PUSH": ""})] == [
        "window.timezone",
        "window.until",
        "limits.offices",
        "limits.email",
        "email.provider",
        "NOTIFIERD_PUSH",
    ]


def test_a_long_wrong_value_is_cut_short():
    (line,) = problems(f'window.timezone = "{"x" * 500}"')
    assert line.startswith(f'window.timezone: "{"x" * 59}... is not a time zone')


def test_a_table_made_by_hand_is_checked_too():
    with pytest.raises(ValueError, match="offices: 0 is out of range"):
        LimitsSettings(offices=0)


def test_settings_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().limits.offices = 5  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- other sources


@pytest.mark.parametrize(
    ("name", "text", "dotted", "expected"),
    [
        ("NOTIFIERD_LIMITS_OFFICES", "3", "limits.offices", 3),
        ("NOTIFIERD_LIMITS_SEND_TIMEOUT", "2", "limits.send_timeout", 2.0),
        ("NOTIFIERD_PUSH_ENABLED", "false", "push.enabled", False),
        ("NOTIFIERD_EMAIL_PROVIDER", "ses", "email.provider", "ses"),
        ("NOTIFIERD_CONTENT_PRODUCT", '"quoted" stays', "content.product", '"quoted" stays'),
        ("NOTIFIERD_WINDOW_AT", "08:15", "window.at", time(8, 15)),
        ("NOTIFIERD_WINDOW_AT", "08:15:00", "window.at", time(8, 15)),
        ("NOTIFIERD_WINDOW_AT", '"08:15"', "window.at", time(8, 15)),
        ("NOTIFIERD_WINDOW_CLOSED_WEEKDAYS", '["sun"]', "window.closed_weekdays", ("sun",)),
        ("NOTIFIERD_WINDOW_CLOSED_DATES", "[2026-12-29]", "window.closed_dates", (date(2026, 12, 29),)),
        ("NOTIFIERD_DATABASE_DSN", "postgresql://h/d", "database.dsn", "postgresql://h/d"),
    ],
)
def test_an_environment_variable_sets_a_key(name, text, dotted, expected):
    value: object = read("", {name: text})
    for part in dotted.split("."):
        value = getattr(value, part)
    assert value == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("NOTIFIERD_LIMITS_OFFICES", "0", "limits.offices: 0 is out of range (1 to 100), from NOTIFIERD_LIMITS_OFFICES"),  # noqa: E501
        ("NOTIFIERD_LIMITS_OFFICES", "", "limits.offices: expected a whole number, not a string, from NOTIFIERD_LIMITS_OFFICES"),  # noqa: E501
        ("NOTIFIERD_PUSH_ENABLED", "yes", "push.enabled: expected true or false, not a string, from NOTIFIERD_PUSH_ENABLED"),  # noqa: E501
        ("NOTIFIERD_WINDOW_AT", "nine", 'window.at: "nine" is not a time (09:00:00 or "09:00"), from NOTIFIERD_WINDOW_AT'),  # noqa: E501
        ("NOTIFIERD_WINDOW_CLOSED_WEEKDAYS", "sun", 'window.closed_weekdays: expected a list ([] or ["...", "..."]), not a string, from NOTIFIERD_WINDOW_CLOSED_WEEKDAYS'),  # noqa: E501
        ("NOTIFIERD_LOG_LEVEL", "loud", 'log.level: "loud" is not one of "debug", "info", "warning", "error", from NOTIFIERD_LOG_LEVEL'),  # noqa: E501
        ("NOTIFIERD_LIMITS_OFICES", "3", 'NOTIFIERD_LIMITS_OFICES: unknown environment variable (did you mean "NOTIFIERD_LIMITS_OFFICES"?)'),  # noqa: E501
        ("NOTIFIERD_CONFIG", "/etc/x", "NOTIFIERD_CONFIG: unknown environment variable"),
        ("NOTIFIERD_ENV", "production", "NOTIFIERD_ENV: unknown environment variable"),
        ("NOTIFIERD_PORT", "9464", "NOTIFIERD_PORT: unknown environment variable"),
        ("NOTIFIERD_NAME", "here", "NOTIFIERD_NAME: unknown environment variable"),
        ("NOTIFIERD_SERVICE_PORT", "http", "NOTIFIERD_SERVICE_PORT: unknown environment variable"),
        ("NOTIFIERD_EMAIL_SENDER_FILE", "/x", 'NOTIFIERD_EMAIL_SENDER_FILE: unknown environment variable (did you mean "NOTIFIERD_EMAIL_SENDER"?)'),  # noqa: E501
    ],
)  # fmt: skip
def test_a_bad_environment_variable_is_one_line_that_names_it(name, text, expected):
    assert problems("", {name: text}) == (expected,)


def test_other_programs_variables_are_none_of_ours():
    assert read("", {"PATH": "/bin", "NOTIFIER": "x"}) == Settings()


@pytest.mark.parametrize("name", INJECTED)
def test_what_a_container_platform_sets_for_a_service_of_that_name_is_no_mistake(name):
    assert read(environ={name: INJECTED[name]}) == Settings()


def test_a_table_of_the_wrong_type_does_not_hide_what_the_environment_gets_wrong():
    assert problems("limits = 3", {"NOTIFIERD_LIMITS_OFFICES": "0"}) == (
        "limits: expected a table ([limits]), not a whole number",
        "limits.offices: 0 is out of range (1 to 100), from NOTIFIERD_LIMITS_OFFICES",
    )


def test_environment_comes_before_credential_before_file_key_before_the_file(tmp_path):
    """Each is given its own secret; the strongest is taken away one by one."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    credential = write(credentials / "email.resend.api_key", "from-credential\n")
    from_file = f'email.resend.api_key_file = "{write(tmp_path / "key", "from-file")}"'
    name = "NOTIFIERD_EMAIL_RESEND_API_KEY"
    mounted = write(tmp_path / "mounted", "from-environment-file\r\n")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}

    def api_key(toml: str, **more: str) -> str:
        return read(toml, environ | more).email.resend.api_key

    assert api_key(from_file, **{name: "from-environment"}) == "from-environment"
    assert api_key(from_file, **{f"{name}_FILE": str(mounted)}) == "from-environment-file"
    assert api_key(from_file) == "from-credential"
    assert api_key('email.resend.api_key = "plain"') == "from-credential"
    credential.unlink()
    assert api_key(from_file) == "from-file"
    assert api_key('email.resend.api_key = "plain"') == "plain"
    assert api_key("") == ""


def test_a_credential_may_hold_any_key(tmp_path):
    write(tmp_path / "limits.offices", "4\n")
    assert read("limits.offices = 2", {"CREDENTIALS_DIRECTORY": str(tmp_path)}).limits.offices == 4


def test_a_misspelt_credential_is_a_mistake_and_a_foreign_one_is_not(tmp_path):
    write(tmp_path / "email.resend.apikey", "x")
    write(tmp_path / "tls.pem", "x")
    assert problems("", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == (
        'email.resend.apikey: unknown credential (did you mean "email.resend.api_key"?)',
    )


def test_in_a_store_that_others_share_a_credential_has_a_longer_name(tmp_path):
    write(tmp_path / "notifierd.limits.offices", "4")
    write(tmp_path / "limits.offices", "5")
    write(tmp_path / "notifierd.limits.email", "many")
    write(tmp_path / "notifierd.limits.pushes", "6")
    write(tmp_path / "other.limits.push", "7")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    bad, unknown = problems("", environ)
    assert bad.startswith("limits.email: ")
    assert bad.endswith(", from the credential notifierd.limits.email")
    assert unknown == 'notifierd.limits.pushes: unknown credential (did you mean "notifierd.limits.push"?)'
    (tmp_path / "notifierd.limits.email").unlink()
    (tmp_path / "notifierd.limits.pushes").unlink()
    assert read("", environ).limits.offices == 4


def test_a_credential_that_is_a_folder_or_behind_a_loop_is_reported(tmp_path):
    (tmp_path / "http.token").mkdir()
    (tmp_path / "database.dsn").symlink_to(tmp_path / "database.dsn")
    dsn, token = problems("", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert dsn == f"database.dsn: {tmp_path}/database.dsn cannot be read (Too many levels of symbolic links)"
    assert token == f"http.token: {tmp_path}/http.token cannot be read (Is a directory)"


def test_a_credentials_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # tests may run as root, whom no mode keeps out
    assert problems("", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == (
        f"CREDENTIALS_DIRECTORY: {tmp_path} cannot be read (Permission denied)",
    )


def test_a_credentials_folder_that_is_gone_holds_nothing(tmp_path):
    assert read("", {"CREDENTIALS_DIRECTORY": str(tmp_path / "gone")}) == Settings()


@pytest.mark.parametrize("name", ["NOTIFIERD_HTTP_TOKEN", "NOTIFIERD_HTTP_TOKEN_FILE"])
def test_an_empty_secret_in_the_environment_is_one_not_given(name):
    """As compose files leave it when their variable is unset."""
    assert read('http.token = "abc"', {name: ""}).http.token == "abc"


def test_an_empty_string_in_the_environment_overrides_the_file():
    assert read('safety.redirect_to = "dev@example.jp"', {"NOTIFIERD_SAFETY_REDIRECT_TO": ""}).safety.redirect_to == ""


def test_an_empty_key_beside_its_file_is_not_given_twice(tmp_path):
    write(tmp_path / "token", "abc")
    assert read('http.token = ""\nhttp.token_file = "token"', folder=tmp_path).http.token == "abc"


def test_a_secret_given_twice_is_a_mistake():
    assert problems('http.token = "hush"\nhttp.token_file = "/x"') == (
        "http.token: given twice, as token and as token_file (only one is allowed)",
    )
    assert problems("", {"NOTIFIERD_HTTP_TOKEN": "hush", "NOTIFIERD_HTTP_TOKEN_FILE": "/x"}) == (
        "http.token: given twice, as NOTIFIERD_HTTP_TOKEN and as NOTIFIERD_HTTP_TOKEN_FILE (only one is allowed)",
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read (No such file or directory)"), (b"\xff\xfe", "is not UTF-8 text"), (b"\n", "is empty")],
)
def test_a_secret_file_that_is_no_good_is_a_mistake(tmp_path, content, why):
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    assert problems('http.token_file = "token"', folder=tmp_path) == (f"http.token: {tmp_path}/token {why}",)


def test_a_bad_secret_from_a_file_names_the_file_key_and_not_the_secret(tmp_path):
    write(tmp_path / "token", "hush hush")
    assert problems('http.token_file = "token"', folder=tmp_path) == (
        "http.token: the value is not made of visible ASCII characters without spaces, from token_file",
    )


# ----------------------------------------------------------------------------------------------------------- secrets


@given(st.data())
def test_no_secret_or_address_is_ever_shown(data):
    """Not in the settings' repr, and not in any problem, whatever else is wrong."""
    secret = data.draw(st.text("abcdefgh", min_size=12, max_size=20), label="secret")
    hidden = [dotted for dotted, field in EVERY_KEY.items() if key_of(field).secret or key_of(field).private]
    environ = {variable(dotted): f"{secret}\n{secret}" for dotted in hidden}
    lines = problems("", environ)
    assert len(lines) == len(hidden)
    assert secret not in "\n".join(lines)
    good = read("", {"NOTIFIERD_HTTP_TOKEN": secret, "NOTIFIERD_EMAIL_SENDER": f"{secret}@example.jp"})
    assert secret not in repr(good)


def test_whoever_may_read_a_secret_from_a_file_may_do_so_for_each():
    """Every key that holds a secret is marked as one."""
    assert [dotted for dotted, field in EVERY_KEY.items() if key_of(field).secret] == [
        "database.dsn",
        "network.proxy",
        "email.resend.api_key",
        "email.resend.feedback_key",
        "email.sendgrid.api_key",
        "email.sendgrid.feedback_key",
        "email.postmark.server_token",
        "email.postmark.feedback_key",
        "email.mailgun.api_key",
        "email.mailgun.feedback_key",
        "email.ses.secret_access_key",
        "email.ses.session_token",
        "email.gmail.service_account",
        "email.smtp.password",
        "push.vapid_private_key",
        "http.token",
        "watch.webhook_url",
        "watch.webhook_token",
        "watch.ping_url",
    ]


# ---------------------------------------------------------------------------------------------------------- VAPID keys


P256 = ec.generate_private_key(ec.SECP256R1())
DER = P256.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def pem(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, kind: PrivateFormat, password: str = "") -> str:
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return private.private_bytes(Encoding.PEM, kind, encryption).decode()


@pytest.mark.parametrize(
    "text",
    [
        urlsafe_b64encode(P256.private_numbers().private_value.to_bytes(32, "big")).rstrip(b"=").decode(),
        urlsafe_b64encode(P256.private_numbers().private_value.to_bytes(32, "big")).decode(),
        urlsafe_b64encode(DER).decode(),
        pem(P256, PrivateFormat.PKCS8),
        pem(P256, PrivateFormat.TraditionalOpenSSL),
    ],
    ids=["raw", "raw padded", "der", "pem", "pem sec1"],
)
def test_a_vapid_key_may_be_raw_der_or_pem(tmp_path, text):
    write(tmp_path / "key", text)
    settings = read('push.vapid_private_key_file = "key"', folder=tmp_path)
    key = parse_vapid_key(settings.push.vapid_private_key).private_key
    assert key.private_numbers() == P256.private_numbers()


@pytest.mark.parametrize(
    "text",
    [
        "A" * 43,  # zero is no key
        "_" * 43,  # beyond the curve's order
        "A" * 20,
        "!" * 43,
        pem(ec.generate_private_key(ec.SECP384R1()), PrivateFormat.PKCS8),
        pem(rsa.generate_private_key(65537, 2048), PrivateFormat.PKCS8),
        pem(P256, PrivateFormat.PKCS8, password="x"),
        "-----BEGIN PRIVATE KEY-----",
    ],
    ids=["zero", "beyond the order", "too short", "not base64", "another curve", "rsa", "under a password", "cut off"],
)
def test_what_is_no_vapid_key_is_refused_and_not_repeated(tmp_path, text):
    write(tmp_path / "key", text)
    (line,) = problems('push.vapid_private_key_file = "key"', folder=tmp_path)
    assert line == (
        "push.vapid_private_key: the value is not a VAPID private key (base64url or PEM, as `notifierd vapid` prints "
        "it), from vapid_private_key_file"
    )


# ------------------------------------------------------------------------------------------------- missing for sending


def test_the_defaults_load_but_cannot_send_yet():
    ways = "as api_key_file, systemd credential or environment variable"
    assert missing_for_sending(Settings()) == [
        'email.sender: required for sending ("Name <name@example.jp>", of a domain verified there)',
        f"email.resend.api_key: required for sending through resend ({ways})",
        "push.vapid_private_key: required for push (run `notifierd vapid`, or set push.enabled = false)",
    ]


def test_nothing_is_missing_once_all_is_given():
    toml = 'email.sender = "a@b.jp"\nemail.resend.api_key = "re_1"\npush.enabled = false'
    assert missing_for_sending(read(toml)) == []


def test_the_fallback_needs_its_keys_too():
    toml = """
        email.sender = "a@b.jp"
        email.provider = "mailgun"
        email.fallback = "gmail"
        push.enabled = false
    """
    assert [line.partition(":")[0] for line in missing_for_sending(read(toml))] == [
        "email.mailgun.api_key",
        "email.mailgun.domain",
        "email.gmail.service_account",
        "email.gmail.user",
    ]


def test_a_service_account_key_is_taken_whole():
    account = '{"client_email": "n@p.iam.gserviceaccount.com", "private_key": "-----BEGIN...\\n"}'
    environ = {"NOTIFIERD_EMAIL_GMAIL_SERVICE_ACCOUNT": account}
    assert read("", environ).email.gmail.service_account == account
