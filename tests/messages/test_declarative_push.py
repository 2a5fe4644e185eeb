"""Pushes that a browser shows by itself, read as the specification and as Safari read them."""

import json
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from attrs import evolve, frozen
from hypothesis import given

from notifierd.config.settings import ContentSettings, Language, PushSettings, Settings
from notifierd.messages.render import NAME, Renderer
from notifierd.messages.text import clean, cut
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.errors import ConfigError
from notifierd.model.message import PUSH_BYTES
from notifierd.model.office import Alert, Device, Notice
from tests.messages.test_names import NAMES
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_assessment, an_id

SCOPE = "https://keikakun.example.jp/"
DASHBOARD = "https://keikakun.example.jp/dashboard?from=push#top"
OFFICE = an_id("office")
SETTINGS = Settings(push=PushSettings(declarative=True), content=ContentSettings(dashboard_url=DASHBOARD))
JAPANESE = Renderer(SETTINGS)
RENDERERS: dict[Language, Renderer] = {
    "ja": JAPANESE,
    "en": Renderer(evolve(SETTINGS, content=evolve(SETTINGS.content, language="en"))),
}


@frozen
class Declared:
    """What a browser shows of a push that it takes for a declarative one."""

    title: str
    navigate: str
    options: dict[str, Any]
    mutable: bool = False


def parsed(data: bytes, scope: str = SCOPE) -> Declared | None:
    """Follow "parse a declarative push message"; None stands for its failure.

    https://w3c.github.io/push-api/#declarative-push-message, and for the options "create a notification" of
    https://notifications.spec.whatwg.org/#create-a-notification
    """
    try:
        message = json.loads(data)
    except ValueError:
        return None
    if not isinstance(message, dict) or not is_number(message.get("web_push")) or message["web_push"] != 8030:
        return None
    described = message.get("notification")
    if not isinstance(described, dict):
        return None
    title, navigate = described.get("title"), described.get("navigate")
    if not isinstance(title, str) or not isinstance(navigate, str):
        return None
    url = resolved(navigate, scope)
    options: dict[str, Any] = {
        name: value for name, value in described.items() if name in TYPES and isinstance(value, TYPES[name])
    }
    if options.get("dir", "auto") not in {"auto", "ltr", "rtl"}:
        del options["dir"]
    for name in {"image", "icon", "badge"} & set(options):
        options[name] = resolved(options[name], scope)
    if url is None or (options.get("renotify") and not options.get("tag")):
        return None
    if options.get("silent") and "vibrate" in options:
        return None
    return Declared(title, url, options, message.get("mutable") is True)


TYPES: dict[str, type] = {
    **dict.fromkeys(("dir", "lang", "body", "tag", "image", "icon", "badge"), str),
    **dict.fromkeys(("renotify", "silent", "requireInteraction"), bool),
    "vibrate": list,
    "timestamp": int,
    "data": object,
    "actions": list,
}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def resolved(url: str, base: str) -> str | None:
    """A URL of http or https with a host, after resolving; None for what is none."""
    try:
        absolute = urljoin(base, url)
        parts = urlsplit(absolute)
    except ValueError:
        return None
    return absolute if parts.scheme in {"http", "https"} and parts.hostname else None


def safari_reads(data: bytes) -> bool:
    """Whether WebKit's parser (Source/WebCore/Modules/notifications/NotificationJSONParser.cpp) takes a message.

    It is stricter than the specification: it resolves no relative URL, and rejects the message for a member of another
    type, for an icon that is no absolute URL, and for an empty title.
    """
    message = json.loads(data)
    described = message.get("notification")
    return (
        message.get("web_push") == 8030
        and isinstance(described, dict)
        and bool(described.get("title"))
        and all(resolved(described[name], "") is not None for name in ("navigate", "icon") if name in described)
        and "navigate" in described
        and all(isinstance(described[name], TYPES[name]) for name in TYPES.keys() & described.keys())
    )


def pushed(renderer: Renderer, office: str = "ひまわり", alerts: tuple[Alert, ...] = ()) -> bytes:
    alerts = alerts or (a_renewal(-1), an_assessment())
    staff = a_staff("staff")
    notice = Notice(DAY, OFFICE, office, staff, Channel.PUSH, alerts)
    device: Device = a_device(staff)
    return renderer.push(notice, Delivery(an_id("push"), OFFICE, staff.id, Channel.PUSH), device, 60).payload


def example(**changes: Any) -> bytes:
    """The specification's example, with *changes* to its notification, or to the message by ``top``."""
    top = changes.pop("top", {})
    notification = {
        "title": "Ada emailed ‘London’",
        "lang": "en-US",
        "dir": "ltr",
        "body": "Did you hear about the tube strikes?",
        "navigate": "https://email.example/message/12",
    }
    return json.dumps({"web_push": 8030, "notification": notification | changes} | top).encode()


def test_the_specifications_example_is_read() -> None:
    options = {"lang": "en-US", "dir": "ltr", "body": "Did you hear about the tube strikes?"}
    expected = Declared("Ada emailed ‘London’", "https://email.example/message/12", options)
    assert parsed(example()) == expected
    assert parsed(example(top={"mutable": True})) == evolve(expected, mutable=True)
    relative = parsed(example(navigate="/message/12"))
    assert relative is not None
    assert relative.navigate == f"{SCOPE}message/12"
    assert safari_reads(example())
    assert not safari_reads(example(navigate="/message/12"))
    assert not safari_reads(example(icon="/icon-192.png"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"8030",
        b'{"title": "x"}',
        example(top={"web_push": "8030"}),
        example(top={"web_push": 8031}),
        example(top={"web_push": True}),
        example(top={"notification": "x"}),
        example(title=None),
        example(navigate=None),
        example(navigate="https://[x"),
        example(renotify=True),
        example(vibrate=[200], silent=True),
    ],
)
def test_what_the_specification_takes_for_no_declaration_is_none(data: bytes) -> None:
    assert parsed(data) is None


def test_a_declarative_push_says_the_same_in_the_standards_members() -> None:
    for language, renderer in RENDERERS.items():
        data = pushed(renderer)
        own = json.loads(data)
        assert parsed(data) == Declared(
            own["title"],
            DASHBOARD,
            {
                "body": own["body"],
                "lang": language,
                "tag": f"deadline_alert-{OFFICE}",
                "renotify": True,
                "requireInteraction": True,
            },
        )
        assert safari_reads(data)


def test_a_push_is_declarative_only_if_the_operator_says_so() -> None:
    """And what the application's service worker reads is the same in both."""
    plain = Renderer(evolve(SETTINGS, push=PushSettings()))
    assert parsed(pushed(plain)) is None
    own = json.loads(pushed(JAPANESE))
    assert {name: value for name, value in own.items() if name not in {"web_push", "notification"}} == json.loads(
        pushed(plain)
    )


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(office=NAMES)
def test_whatever_an_office_is_called_its_push_is_declarative_and_fits(renderer: Renderer, office: str) -> None:
    for alerts in ((a_renewal(-1),), (an_assessment(),), (a_renewal(-1), an_assessment())):
        data = pushed(renderer, office, alerts)
        assert len(data) <= PUSH_BYTES
        assert safari_reads(data)
        read = parsed(data)
        assert read is not None
        assert cut(clean(office), NAME) in read.title
        assert read.navigate == DASHBOARD


def test_the_longest_name_fits_beside_the_longest_url() -> None:
    """A byte more is refused at the start, by a message that names what to shorten."""

    def with_url(length: int) -> Renderer:
        url = "https://keikakun.example.jp/".ljust(length, "x")
        return Renderer(evolve(SETTINGS, content=evolve(SETTINGS.content, dashboard_url=url)))

    longest = "🌸" * NAME
    room = 100 + (PUSH_BYTES - 100) - len(pushed(with_url(100), longest))
    many = (a_renewal(9),) * 99_999 + (an_assessment(),) * 99_999
    assert PUSH_BYTES - 100 < len(pushed(with_url(room), longest, many)) <= PUSH_BYTES
    with pytest.raises(ConfigError, match=r"^push\.icon, push\.badge, content\.dashboard_url: too long"):
        with_url(room + 1)


def test_a_declarative_trial_says_so_in_the_standards_members() -> None:
    staff = a_staff("hanako")
    push = JAPANESE.trial_push(OFFICE, staff, a_device(staff), DAY, 60)
    declared = parsed(push.payload)
    assert declared is not None
    assert declared.title == json.loads(push.payload)["title"]
    assert declared.title.startswith("【試験送信】")
