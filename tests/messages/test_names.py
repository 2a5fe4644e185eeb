"""Whatever names and addresses a database holds: mails and pushes say what was meant, and nothing more."""

import json
import sys
from email import message_from_bytes, policy
from functools import cache
from typing import Any
from unicodedata import bidirectional, category
from uuid import UUID

import html5lib
import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notifierd.config.settings import ContentSettings, EmailSettings, Language, Settings
from notifierd.messages.render import NAME, Renderer
from notifierd.messages.text import clean, cut
from notifierd.model.address import BadAddress, Mailbox
from notifierd.model.delivery import LISTED, Channel, Delivery
from notifierd.model.message import PUSH_BYTES
from notifierd.model.office import Device, Notice
from notifierd.send.mail.mime import undated
from notifierd.send.open import PROVIDERS
from tests.send.test_senders import KINDS, calls_for
from tests.support.providers import Read
from tests.support.samples import DAY, a_renewal, a_staff, an_assessment, an_id

SETTINGS = Settings(
    email=EmailSettings(
        sender="けいかくん, 係 <no-reply@例え.jp>",
        reply_to='"相談, 窓口" <ask@example.jp>',
        list_unsubscribe="https://app.example.jp/停止?staff={staff_id}",
    ),
    content=ContentSettings(dashboard_url="https://app.example.jp/?a=1&b=2"),
)
JAPANESE = Renderer(SETTINGS)
RENDERERS: dict[Language, Renderer] = {
    "ja": JAPANESE,
    "en": Renderer(evolve(SETTINGS, content=evolve(SETTINGS.content, language="en"))),
}
OFFICE = an_id("office")
MAIL = Delivery(an_id("mail"), OFFICE, an_id("staff"), Channel.EMAIL)
DEVICE = Device(UUID(int=4), an_id("staff"), "https://push.example/secret", "p", "a")
NAMES_OF_HEADERS = [
    "From",
    "To",
    "Reply-To",
    "Subject",
    "Message-ID",
    "X-Entity-Ref-ID",
    "Auto-Submitted",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
]

TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

HOSTILE = (
    "",
    " \r\n\u3000",
    "太郎\r\nBcc: all@example.jp\r\n\r\n<h1>hello</h1>",
    "太郎\nContent-Type: text/html",
    "=?utf-8?q?=0D=0ABcc:_all@example.jp?=",
    "</title></style></bdi></table><script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>",
    "\" onmouseover='alert(1)' <!-- --><![CDATA[ &lt;b&gt; &#60;script&#62; &amp;amp; \\u003cscript\\u003e",
    "{{ staff }} {% raw %} {{{ pm:unsubscribe }}} %recipient.name% -name- <%body%> [unsubscribe] ${x}",
    "\u202egnp.exe\u2066\u200f\u061c\ufeff\u2069",
    "مركز الرعاية 12 \u200fאבג",
    "\0\x01\x08\x0b\x1b[31m\x7f\x85\u2028\u2029\ufffe\U0010ffff",
    "\ud800 \udfff \ud83c",
    "葛\U000e0100城 \ufa19谷 か\u3099 ｶﾞ",
    "x" * 10_000,
    "が" * 10_000,
    "か\u3099" * 10_000,
    "👨‍👩‍👧" * 3000,
    "🇯🇵" * 5000,
    "e" + "\u0301" * 10_000,
    '"\\' * 5000,
    "&<>" * 3000,
    "\r\n" * 5000 + "a",
)
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=()), max_size=100),
    st.text("\r\n\t\0\x7f\u2028\u202e\u2066\u200f\ud800\udfff<>&\"'\\/=:;,@%{}山か\u3099🌸\u200d", max_size=200),
    st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=3).map("".join),
)
ADDRESSES = st.one_of(
    NAMES,
    st.emails(),
    st.builds("{}@{}.jp".format, NAMES, NAMES),
    st.sampled_from(["taro@example.jp, all@example.jp", "taro@example.jp\r\nBcc: all@example.jp", "taro@例え.jp"]),
    st.builds("{}taro@example.jp{}".format, st.sampled_from(HOSTILE), st.sampled_from(HOSTILE)),
)


def notice(office: str, staff: str, recipient: str, address: str = "taro@example.jp") -> Notice:
    someone = evolve(a_staff("staff", email=address), name=staff)
    alerts = (a_renewal(-1), a_renewal(5), an_assessment())
    named = tuple(evolve(alert, recipient_name=recipient) for alert in alerts)
    return Notice(DAY, OFFICE, office, someone, Channel.EMAIL, named)


# What leaves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
@given(office=NAMES, staff=NAMES, recipient=NAMES, address=ADDRESSES)
@settings(max_examples=60)
async def test_each_sender_says_what_was_meant_to_whom_it_was_meant(
    provider: str, office: str, staff: str, recipient: str, address: str
) -> None:
    """And a provider that put each of our headers on a line, just as it is, would make no others of them."""
    kind = KINDS[provider]
    try:
        mail = JAPANESE.mail(notice(office, staff, recipient, address), MAIL)
    except BadAddress:
        return
    (request,) = await calls_for(kind, [mail])
    (read,) = kind.reads(request)
    assert read == kind.means(mail)
    assert read.to == (mail.to,)
    expected = [name for name in NAMES_OF_HEADERS if name != "Message-ID" or provider != "ses"]
    found = message_from_bytes(put_together(read), policy=policy.default)
    assert sorted(found.keys()) == sorted([*expected, *(["Date"] if provider in {"gmail", "smtp"} else [])])
    assert not found.defects
    assert [one.addr_spec for one in found["To"].addresses] == [mail.to]
    assert found["Subject"] == read.subject
    assert found["List-Unsubscribe"] == f"<https://app.example.jp/%e5%81%9c%e6%ad%a2?staff={an_id('staff')}>"


def put_together(read: Read) -> bytes:
    """A mail's header as one would write it who looks at nothing."""
    boxes: dict[str, Mailbox | None] = {"From": read.sender, "Reply-To": read.reply_to}
    lines = [f"{name}: {box.encoded()}" for name, box in boxes.items() if box]
    lines += [f"To: {', '.join(read.to)}", f"Subject: {read.subject}"]
    lines += [f"{name}: {value}" for name, value in read.headers.items()]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


@given(office=NAMES, staff=NAMES, recipient=NAMES)
def test_a_whole_message_reads_as_it_was_meant(office: str, staff: str, recipient: str) -> None:
    mail = JAPANESE.mail(notice(office, staff, recipient), MAIL)
    raw = undated(mail)
    assert max(len(line) for line in raw.split(b"\r\n") if not line.startswith(b"List-Unsubscribe:")) <= 78
    assert not set(b"\r\n") & set(raw.replace(b"\r\n", b""))
    found = message_from_bytes(raw, policy=policy.default)
    assert list(found.keys()) == [
        "Content-Type",
        "MIME-Version",
        "From",
        "To",
        "Reply-To",
        "Subject",
        *sorted(mail.headers),
    ]
    assert found["Subject"] == mail.subject
    assert {name: found[name] for name in mail.headers} == mail.headers
    text, html = found.iter_parts()
    assert (text.get_content_type(), text.get_content()) == ("text/plain", mail.text.replace("\n", "\r\n"))
    assert (html.get_content_type(), html.get_content()) == ("text/html", mail.html.replace("\n", "\r\n"))
    assert not any(part.defects for part in found.walk())


# What is read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["ja", "en"])
@given(office=NAMES, staff=NAMES, recipient=NAMES)
@example(office=HOSTILE[5], staff=HOSTILE[5], recipient=HOSTILE[5])
def test_the_html_shows_every_name_and_runs_nothing(
    language: Language, office: str, staff: str, recipient: str
) -> None:
    """No element and no attribute but the template's, to a parser that reads as browsers do."""
    document = parsed(RENDERERS[language].mail(notice(office, staff, recipient), MAIL).html)
    assert elements(document) == elements_of_plain_names(language, bool(clean(staff)))
    nameless = {"ja": "（名称なし）", "en": "(no name)"}[language]
    shown = [cut(clean(name), NAME) for name in (office, staff, recipient)]
    expected = [*[shown[0] or nameless] * 2, *filter(None, shown[1:2]), *[shown[2] or nameless] * 3]
    assert ["".join(bdi.itertext()) for bdi in document.iter("bdi")] == expected
    (title,) = document.iter("title")
    assert title.text == {"ja": f"{expected[0]}の期限アラート", "en": f"Deadlines at {expected[0]}"}[language]


def elements(document: Any) -> list[tuple[str, dict[str, str]]]:
    return [(str(element.tag), dict(element.attrib)) for element in document.iter()]


@cache
def elements_of_plain_names(language: Language, greeted: bool) -> list[tuple[str, dict[str, str]]]:
    return elements(parsed(RENDERERS[language].mail(notice("x", "x" * greeted, "x"), MAIL).html))


def parsed(html: str) -> Any:
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    document = parser.parse(html)
    assert parser.errors == []
    return document


def test_the_html_asks_for_nothing_and_runs_nothing() -> None:
    """No picture, font, style sheet or script of anybody's; one link, to where the configuration says."""
    tree = elements_of_plain_names("ja", True)
    assert not {"script", "img", "link", "iframe", "object", "form", "video", "base"} & {tag for tag, _ in tree}
    attributes = [(name, value) for _, every in tree for name, value in every.items()]
    assert [value for name, value in attributes if name in {"href", "src", "background", "action"}] == [
        "https://app.example.jp/?a=1&b=2"
    ]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert "url(" not in repr(tree)
    assert "@import" not in repr(tree)


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(office=NAMES, staff=NAMES, recipient=NAMES)
def test_the_text_and_the_subject_are_lines_as_the_template_has_them(
    renderer: Renderer, office: str, staff: str, recipient: str
) -> None:
    mail = renderer.mail(notice(office, staff, recipient), MAIL)
    plain = renderer.mail(notice("x", "x" if clean(staff) else "", "x"), MAIL)
    assert len(mail.text.splitlines()) == len(plain.text.splitlines())
    for line in (mail.subject, *mail.text.splitlines(), *mail.html.splitlines()):
        assert len(line.encode()) <= 998, "RFC 5322, section 2.1.1, whatever a provider makes of it"
        assert not [c for c in line if category(c) in {"Cc", "Cs", "Zl", "Zp"} or bidirectional(c) in TURNING]
    assert mail.text.count(cut(clean(recipient), NAME)) >= 3
    assert cut(clean(office), NAME).replace("=?", "= ?") in mail.subject


PRODUCTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=30)


@given(product=PRODUCTS | st.sampled_from(["</title><script>", '"><img src=x>', "{{ 7 * 7 }}", "&amp;"]))
@settings(max_examples=20)
def test_the_products_name_is_text_too(product: str) -> None:
    content = evolve(SETTINGS.content, product=product)
    mail = Renderer(evolve(SETTINGS, content=content)).mail(notice("x", "x", "x"), MAIL)
    assert elements(parsed(mail.html)) == elements_of_plain_names("ja", True)
    assert product in mail.text


@pytest.mark.parametrize("character", ["期", "🌸", '"', "'", "&", "<"])
def test_no_mail_is_clipped(character: str) -> None:
    """Gmail shows 102 kB of HTML and hides the rest, so the longest mail of the longest names stays below."""
    name = character * NAME
    alerts = (evolve(a_renewal(-1), recipient_name=name),) * 5000
    html = JAPANESE.mail(evolve(notice(name, name, name), alerts=alerts), MAIL).html
    assert html.count("1日超過") == LISTED
    assert len(html.encode()) < 102_000


# Pushes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@given(office=NAMES, staff=NAMES)
def test_every_push_payload_is_json_within_bounds(renderer: Renderer, office: str, staff: str) -> None:
    said = evolve(notice(office, staff, staff), channel=Channel.PUSH)
    made = renderer.push(said, MAIL, DEVICE, 60)
    assert len(made.payload) < PUSH_BYTES < 3993
    payload = json.loads(made.payload.decode())  # strictly: no half of a character, and below no half of a pair
    assert set(payload) == {"title", "body", "icon", "badge", "requireInteraction", "data"}
    shown = cut(clean(office), NAME)
    assert payload["title"] in {f"期限アラート（{shown}）", f"Deadline alert ({shown})"}
    assert payload["data"]["office_name"] == shown
    assert shown.encode().decode() == shown
    assert clean(office).startswith(shown.removesuffix("…"))


def test_a_character_is_treated_alike_beside_others_that_make_cleaning_take_longer():
    """Most names are as they must be, which `clean` sees at once. U+200B is dropped, so it changes nothing."""
    for code in range(sys.maxunicode + 1):
        name = f"a{chr(code)}\u0301"
        assert clean(name) == clean(f"{name}\u200b"), f"U+{code:04X}"
