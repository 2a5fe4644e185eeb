"""What a staff member reads, whatever names the database holds."""

import json
import re
import unicodedata
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config.settings import ContentSettings, EmailSettings, PushSettings, SafetySettings, Settings
from notifierd.messages.render import NAME, SUBJECT, Renderer
from notifierd.messages.text import clean, cut, pad
from notifierd.model.address import Address, BadAddress, Mailbox
from notifierd.model.delivery import LISTED, Channel, Delivery
from notifierd.model.errors import ConfigError
from notifierd.model.message import PUSH_BYTES
from notifierd.model.office import Alert, Device, Kind, Notice, Staff

DAY = date(2026, 11, 24)
OFFICE, STAFF = UUID(int=1), UUID(int=2)
DELIVERY = Delivery(UUID(int=3), OFFICE, STAFF, Channel.EMAIL)
DEVICE = Device(UUID(int=4), STAFF, "https://push.example/secret", "p", "a")
SETTINGS = Settings(
    email=EmailSettings(sender="keikakun <no-reply@例え.jp>"),
    content=ContentSettings(dashboard_url="https://app.example.jp/?a=1&b=2"),
)
JAPANESE = Renderer(SETTINGS)
ENGLISH = Renderer(evolve(SETTINGS, content=ContentSettings(language="en")))


def renewal(days: int, name: str = "高橋 一郎") -> Alert:
    return Alert(UUID(int=5), name, Kind.RENEWAL, DAY + timedelta(days), 2)


def assessment(name: str = "佐藤 花子") -> Alert:
    return Alert(UUID(int=6), name, Kind.ASSESSMENT, None, 1)


def notice(
    *alerts: Alert, office: str = "ひまわり", staff: str = "田中 美咲", channel: Channel = Channel.EMAIL
) -> Notice:
    told = Staff(STAFF, staff, "misaki@example.jp", email_enabled=True, email_days=30, push_enabled=True, push_days=10)
    return Notice(DAY, OFFICE, office, told, channel, alerts or ALERTS)


ALERTS = (renewal(-13), renewal(0), renewal(1), renewal(12), assessment())

NASTY = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=200),
    st.text("\r\n\t\0\x7f\x85\u2028\u202e\u2066\u200f\ud800\udfff<>&\"'\\山🌸", max_size=200),
    st.sampled_from(
        ["", "\u202e", "a\r\nBcc: all@example.jp", "</title><script>", "x" * 10_000, "👨‍👩‍👧" * 3000, "が" * 10_000]
    ),
)


def payload(renderer: Renderer, said: Notice) -> dict[str, Any]:
    made = renderer.push(said, DELIVERY, DEVICE, 60)
    assert len(made.payload) < PUSH_BYTES
    loaded: dict[str, Any] = json.loads(made.payload.decode())
    return loaded


def is_clean(line: str) -> bool:
    line.encode()  # no lone surrogate
    return all(unicodedata.category(c) not in {"Cc", "Zl", "Zp"} for c in line) and not set(line) & set(
        "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def test_two_who_are_told_the_same_get_the_same_mail_but_for_their_names() -> None:
    """Each as if no other had been written before, whatever their names look like."""
    names = ("田中 美咲", "<b>&{{ day }}", r"\1 \g<0>", "\ufdd0", "", "ひまわり")
    mails = [JAPANESE.mail(notice(staff=name), DELIVERY) for name in names]
    assert mails == [Renderer(SETTINGS).mail(notice(staff=name), DELIVERY) for name in names]
    assert [mail.text.partition(" 様\n\n")[0] for mail in mails[:3]] == list(names[:3])
    assert "<bdi>&lt;b&gt;&amp;{{ day }}</bdi> 様" in mails[1].html
    assert mails[3] == mails[4], "a noncharacter is no name"
    assert mails[5].text.count("ひまわり") == mails[0].text.count("ひまわり") + 1
    assert len({mail.subject for mail in mails}) == 1


def test_a_japanese_mail() -> None:
    mail = JAPANESE.mail(notice(), DELIVERY)
    assert mail.to == "misaki@example.jp"
    assert mail.sender == Mailbox(Address("no-reply@xn--r8jz45g.jp"), "keikakun")
    assert mail.subject == "期限超過1件・本日期限1件・期限間近2件・アセスメント未完了1件｜ひまわり"
    assert mail.text == (
        """\
田中 美咲 様

いつもkeikakunをご利用いただき、ありがとうございます。
ひまわりで対応が必要な期限をお知らせいたします（2026年11月24日（火）現在）。

期限超過1件／本日期限1件／期限間近2件／アセスメント未完了1件

■ 期限超過・本日期限（2件）
  2026年11月11日（水）  13日超過    高橋 一郎 様（第2期）
  2026年11月24日（火）  本日が期限  高橋 一郎 様（第2期）

■ 期限間近（2件）
  2026年11月25日（水）  あと1日   高橋 一郎 様（第2期）
  2026年12月06日（日）  あと12日  高橋 一郎 様（第2期）

■ アセスメント未完了（1件）
  佐藤 花子 様（第1期）

詳しくはkeikakunでご確認をお願いいたします。
https://app.example.jp/?a=1&b=2

----------------------------------------
このメールはkeikakunから自動でお送りしています。
ご返信いただいてもお答えできませんので、ご了承ください。
更新期限の30日前からお知らせする設定です。変更はkeikakunの通知設定からお願いいたします。
"""
    ).removesuffix("\n")
    assert '<html lang="ja"' in mail.html
    assert 'href="https://app.example.jp/?a=1&amp;b=2"' in mail.html


@pytest.mark.parametrize("language", ["ja", "en"])
def test_a_cycle_without_a_number_is_not_mentioned(language: Literal["ja", "en"]) -> None:
    alerts = tuple(evolve(alert, cycle=None) for alert in (renewal(3), assessment()))
    renderer = Renderer(evolve(SETTINGS, content=evolve(SETTINGS.content, language=language)))
    mail = renderer.mail(notice(*alerts), DELIVERY)
    for part in (mail.text, mail.html):
        assert "None" not in part
        assert "第" not in part
        assert "cycle" not in part
        assert "（）" not in part
        assert "()" not in part


def test_an_english_mail() -> None:
    mail = ENGLISH.mail(notice(), DELIVERY)
    assert mail.subject == "Deadlines: 1 overdue, 1 due today, 2 due soon, 1 assessment missing | ひまわり"
    assert "  Wed 11 Nov 2026  13 days overdue  高橋 一郎 (cycle 2)\n" in mail.text
    assert "  Wed 25 Nov 2026  1 day left    高橋 一郎 (cycle 2)\n" in mail.text
    assert "  Sun  6 Dec 2026  12 days left  高橋 一郎 (cycle 2)\n" in mail.text
    assert '<html lang="en"' in mail.html
    assert "href=" not in mail.html


def test_the_html_lists_what_the_text_lists_in_the_same_order() -> None:
    mail = JAPANESE.mail(notice(), DELIVERY)
    for part in (mail.text, mail.html):
        found = [part.index(word) for word in ("13日超過", "本日が期限", "あと1日", "あと12日", "佐藤 花子")]
        assert found == sorted(found)


@pytest.mark.parametrize(
    ("alerts", "parts"),
    [
        ((renewal(0),), "本日期限1件"),
        ((renewal(-1),), "期限超過1件"),
        ((renewal(1),), "期限間近1件"),
        ((assessment(),), "アセスメント未完了1件"),
    ],
)
def test_a_subject_counts_only_what_there_is(alerts: tuple[Alert, ...], parts: str) -> None:
    assert JAPANESE.mail(notice(*alerts), DELIVERY).subject == f"{parts}｜ひまわり"


@pytest.mark.parametrize(
    ("renderer", "subject", "preview"),
    [
        (JAPANESE, "期限超過1件・本日期限1件・", "{}：期限超過1件"),
        (ENGLISH, "Deadlines: 1 overdue, 1 due today", "{}: 1 overdue"),
    ],
)
def test_a_phone_shows_what_is_urgent_and_whose_it_is(renderer: Renderer, subject: str, preview: str) -> None:
    """360 pixels show about 17 wide or 34 narrow characters of a subject, and as many of the text's beginning."""
    office = "社会福祉法人みなと見本市" * 5
    mail = renderer.mail(notice(office=office), DELIVERY)
    assert mail.subject.startswith(subject)
    assert mail.subject.endswith(office)
    body = mail.html.partition("<body")[2].partition(">")[2]
    assert re.sub(r"<.*?>", "", body).lstrip().startswith(preview.format(office))


def test_headers() -> None:
    email = evolve(SETTINGS.email, list_unsubscribe="https://app.example.jp/設定?x=%20", reply_to="ask@例え.jp")
    mail = Renderer(evolve(SETTINGS, email=email)).mail(notice(), DELIVERY)
    assert dict(mail.headers) == {
        "Message-ID": f"<{DELIVERY.id}@xn--r8jz45g.jp>",
        "X-Entity-Ref-ID": str(DELIVERY.id),
        "Auto-Submitted": "auto-generated",
        "List-Unsubscribe": "<https://app.example.jp/%e8%a8%ad%e5%ae%9a?x=%20>",
    }
    assert mail.reply_to == Mailbox(Address("ask@xn--r8jz45g.jp"))
    assert "ご返信" not in mail.text
    assert "List-Unsubscribe" not in JAPANESE.mail(notice(), DELIVERY).headers


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("no-reply@example.jp", "example.jp"),
        ("Keikakun, Inc. <no-reply@mail.example.jp>", "mail.example.jp"),
        ("けいかくん <no-reply@例え.jp>", "xn--r8jz45g.jp"),
        ("", "localhost"),
    ],
)
def test_a_message_id_is_of_the_senders_domain(sender: str, domain: str) -> None:
    mail = Renderer(evolve(SETTINGS, email=EmailSettings(sender=sender))).mail(notice(), DELIVERY)
    assert mail.headers["Message-ID"].endswith(f"@{domain}>")


def test_redirected_mail_names_the_staff_id_and_no_address() -> None:
    redirected = Renderer(evolve(SETTINGS, safety=SafetySettings(redirect_to="me@example.com")))
    mail = redirected.mail(notice(), DELIVERY)
    assert mail.to == "me@example.com"
    assert mail.subject.startswith(f"[staff {STAFF}] 期限超過1件")
    assert "misaki" not in repr((mail.subject, mail.text, mail.html, mail.headers))


def to(address: str | None, renderer: Renderer = JAPANESE) -> str:
    said = notice()
    return renderer.mail(evolve(said, staff=evolve(said.staff, email=address)), DELIVERY).to


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("Misaki.Tanaka+x@Example.JP", "Misaki.Tanaka+x@example.jp"),
        ("misaki@例え.jp", "misaki@xn--r8jz45g.jp"),
        ("misaki@ｅｘａｍｐｌｅ．ｊｐ", "misaki@example.jp"),
        (" misaki@example.jp\r\n", "misaki@example.jp"),
        ("misaki@example.jp\u200b", "misaki@example.jp"),
    ],
)
def test_an_address_is_sent_as_mail_servers_have_it(address: str, sent: str) -> None:
    assert to(address) == sent


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (None, "no_address"),
        ("", "no_address"),
        (" \r\n\u3000", "no_address"),
        ("nobody", "bad_address"),
        ("@example.jp", "bad_address"),
        ("misaki@", "bad_address"),
        ("misaki@example", "bad_address"),
        ("misaki@example..jp", "bad_address"),
        ("misaki..tanaka@example.jp", "bad_address"),
        (f"misaki@{'あ' * 64}.jp", "bad_address"),
        ("x" * 10_000 + "@example.jp", "bad_address"),
        ("misaki@example.jp, all@example.jp", "bad_address"),
        ("misaki@example.jp;all@example.jp", "bad_address"),
        ("x: misaki@example.jp; all@example.jp", "bad_address"),
        ("田中 <misaki@example.jp>", "bad_address"),
        ("misaki@example.jp\r\nBcc: all@example.jp", "bad_address"),
        ("misaki tanaka@example.jp", "bad_address"),
        *((f"misaki{mark}@example.jp", "bad_address") for mark in "\u202e\u2066\u200b\ufeff\xad\0\x9b\u2028\ud800"),
        *((f"misaki@exam{mark}ple.jp", "bad_address") for mark in "\u202e\u2066\u200b\ufeff\xad\0\x9b\u2028\ud800"),
        ("misaki@[127.0.0.1]", "bad_address"),
        ("美咲@example.jp", "address_not_ascii"),
        ("ｍｉｓａｋｉ@example.jp", "address_not_ascii"),
    ],
)
def test_an_address_that_no_mail_can_be_sent_to_has_a_reason(address: str | None, reason: str) -> None:
    """Nor one that is several: all of them would get the mail, and see each other."""
    with pytest.raises(BadAddress) as bad:
        to(address)
    assert bad.value.reason == reason
    assert str(bad.value) == reason, "which quotes nobody"


def test_redirected_mail_needs_no_address_of_the_staff_members() -> None:
    redirected = Renderer(evolve(SETTINGS, safety=SafetySettings(redirect_to="me@例え.com")))
    assert {to(address, redirected) for address in (None, "nobody", "美咲@example.jp")} == {"me@xn--r8jz45g.com"}


@pytest.mark.parametrize(
    ("url", "redirect_to", "expected"),
    [
        ("", "", {}),
        ("mailto:stop@example.jp?subject=stop", "", {"List-Unsubscribe": "<mailto:stop@example.jp?subject=stop>"}),
        ("https://example.jp/settings", "", {"List-Unsubscribe": "<https://example.jp/settings>"}),
        ("https://example.jp/settings", "me@example.jp", {"List-Unsubscribe": "<https://example.jp/settings>"}),
        (
            "https://example.jp/stop?staff={staff_id}",
            "",
            {
                "List-Unsubscribe": f"<https://example.jp/stop?staff={STAFF}>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            },
        ),
        (
            "mailto:stop@example.jp?subject={staff_id}",
            "",
            {"List-Unsubscribe": f"<mailto:stop@example.jp?subject={STAFF}>"},
        ),
        ("https://example.jp/stop?staff={staff_id}", "me@example.jp", {}),
    ],
)
def test_one_click_is_said_of_a_url_that_tells_whom_it_is_for(
    url: str, redirect_to: str, expected: dict[str, str]
) -> None:
    """A mail program posts to it unasked for more: to a page for all, it would unsubscribe nobody, and say it did."""
    settings = evolve(SETTINGS, email=evolve(SETTINGS.email, list_unsubscribe=url))
    mail = Renderer(evolve(settings, safety=SafetySettings(redirect_to=redirect_to))).mail(notice(), DELIVERY)
    assert {name: value for name, value in mail.headers.items() if name.startswith("List-")} == expected


def test_a_name_in_the_subject_is_no_encoded_word() -> None:
    """It would be decoded where the subject is otherwise plain, and show what nobody wrote."""
    mail = ENGLISH.mail(notice(office="=?utf-8?q?x=0D=0ABcc:_all@example.jp?="), DELIVERY)
    assert mail.subject.endswith("1 assessment missing | = ?utf-8?q?x=0D=0ABcc:_all@example.jp?=")


def test_no_font_is_tiny() -> None:
    """SpamAssassin counts a font of a pixel against a mail, also in a text that is not displayed."""
    for renderer in (JAPANESE, ENGLISH):
        sizes = re.findall(r"(?:font-size|line-height): ?(\d+)px", renderer.mail(notice(), DELIVERY).html)
        assert min(map(int, sizes)) >= 12


@pytest.mark.parametrize(("days", "words"), [(0, "0 days before"), (1, "1 day before"), (30, "30 days before")])
def test_one_day_is_a_day(days: int, words: str) -> None:
    mail = ENGLISH.mail(evolve(notice(), staff=evolve(notice().staff, email_days=days)), DELIVERY)
    assert f"You are notified {words} a renewal is due." in mail.text
    assert f"You are notified {words} a renewal is due." in mail.html


def test_a_mail_has_an_end() -> None:
    """5,000 alerts: the most urgent are listed, the others counted, in every part; no heading stands over nothing."""
    alerts = tuple(renewal(number // 200, f"利用者{number}") for number in range(5000))
    mail = JAPANESE.mail(notice(*alerts), DELIVERY)
    assert f"利用者{LISTED - 1} 様" in mail.text
    assert f"利用者{LISTED} 様" not in mail.text
    assert f"ほか{5000 - LISTED}件" in mail.text
    assert f"ほか{5000 - LISTED}件" in mail.html
    assert mail.subject.startswith("本日期限200件・期限間近4800件｜")
    assert mail.html.count("<thead>") == 1


def test_a_push_is_exactly_what_the_service_worker_reads() -> None:
    made = JAPANESE.push(notice(channel=Channel.PUSH), DELIVERY, DEVICE, 3600)
    assert json.loads(made.payload) == {
        "title": "期限アラート（ひまわり）",
        "body": "更新期限: 4件、アセスメント未完了: 1件",
        "icon": "/icon-192.png",
        "badge": "/icon-192.png",
        "requireInteraction": True,
        "data": {
            "type": "deadline_alert",
            "office_id": str(OFFICE),
            "office_name": "ひまわり",
            "renewal_count": 4,
            "assessment_count": 1,
            "push_threshold_days": 10,
        },
    }
    assert (made.ttl, made.urgency, made.device, made.delivery_id) == (3600, "normal", DEVICE, DELIVERY.id)


def test_an_english_push() -> None:
    made = payload(ENGLISH, notice(channel=Channel.PUSH))
    assert made["title"] == "Deadline alert (ひまわり)"
    assert made["body"] == "Renewals due: 4, assessments missing: 1"


@pytest.mark.parametrize(
    ("alerts", "japanese", "english"),
    [
        ((renewal(0), renewal(3)), "更新期限: 2件", "Renewals due: 2"),
        ((assessment(),), "アセスメント未完了: 1件", "Assessments missing: 1"),
    ],
)
def test_a_push_counts_only_what_there_is(alerts: tuple[Alert, ...], japanese: str, english: str) -> None:
    """Its numbers, which the application reads, are there in any case."""
    for renderer, words in ((JAPANESE, japanese), (ENGLISH, english)):
        made = payload(renderer, notice(*alerts, channel=Channel.PUSH))
        assert made["body"] == words
        assert made["data"]["renewal_count"] + made["data"]["assessment_count"] == len(alerts)


def test_pictures_may_be_left_out() -> None:
    assert not {"icon", "badge"} & set(
        payload(Renderer(evolve(SETTINGS, push=PushSettings(icon="", badge=""))), notice())
    )


@pytest.mark.parametrize("character", ["x", "期", "🌸", '"', "\\"])
def test_a_long_office_name_is_cut_in_a_push_as_it_is_in_a_mail(character: str) -> None:
    pushed = payload(JAPANESE, notice(office=character * 10_000))
    assert pushed["data"]["office_name"] == character * (NAME - 1) + "…"
    assert pushed["title"] == f"期限アラート（{character * (NAME - 1)}…）"


def test_the_longest_name_fits_a_payload_with_the_longest_pictures() -> None:
    """They leave 100 bytes for the figures; a byte more is refused at the start."""
    longest = notice(renewal(9), assessment(), office="🌸" * NAME)

    def with_icon(length: int) -> Renderer:
        return Renderer(evolve(SETTINGS, push=PushSettings(icon="/" * length)))

    room = PUSH_BYTES - 100 - len(with_icon(1).push(longest, DELIVERY, DEVICE, 60).payload) + 1
    many = evolve(longest, alerts=(renewal(9),) * 99_999 + (assessment(),) * 99_999)
    assert PUSH_BYTES - 100 < len(with_icon(room).push(many, DELIVERY, DEVICE, 60).payload) < PUSH_BYTES
    with pytest.raises(ConfigError, match=r"^push\.icon, push\.badge: too long"):
        with_icon(room + 1)


def test_a_topic_is_of_one_office_and_one_staff_member() -> None:
    said = notice()
    others = (evolve(said, office_id=STAFF), evolve(said, staff=evolve(said.staff, id=OFFICE)))
    topics = {JAPANESE.push(each, DELIVERY, DEVICE, 60).topic for each in (said, *others)}
    assert len(topics) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", topic) for topic in topics)
    assert JAPANESE.push(notice(renewal(3)), DELIVERY, DEVICE, 60).topic in topics


def test_audit_details_have_counts_and_no_person() -> None:
    assert JAPANESE.audit(notice()) == {
        "office_name": "ひまわり",
        "renewal_count": 4,
        "overdue_count": 2,
        "assessment_count": 1,
        "threshold_days": 30,
    }
    colleague = evolve(notice(), staff=evolve(notice().staff, id=OFFICE))
    assert JAPANESE.audit(colleague) is JAPANESE.audit(notice())


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("山田太郎", 4, "山田太郎"),
        ("山田太郎", 3, "山田…"),
        ("ab cd", 4, "ab…"),
        ("xか\u3099y", 3, "x…"),
        ("x👨‍👩‍👧y", 4, "x…"),
        ("x👍🏽y", 3, "x…"),
        ("x🇯🇵🇫🇷y", 5, "x🇯🇵…"),
        ("x🇯🇵🇫🇷y", 3, "x…"),
        ("xﾊﾞy", 3, "x…"),
        ("x\u1112\u1161\u11aby", 3, "x…"),
        ("e" + "\u0301" * 100, 3, "e\u0301…"),
        ("x", 0, ""),
    ],
)
def test_cutting_splits_nothing_that_reads_as_one(text: str, limit: int, expected: str) -> None:
    assert cut(text, limit) == expected


@given(st.text(), st.integers(0, 50))
def test_cut_text_is_a_prefix_within_its_limit(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert len(short) <= limit or short == text
    assert text.startswith(short.removesuffix("…")) or short == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  山田\r\n\t太郎\0 ", "山田 太郎"),
        ("山田　太郎", "山田　太郎"),
        ("\u202eabc\u2069\ud83c", "abc"),
        ("👨‍👩‍👧 🌸", "👨‍👩‍👧 🌸"),
        ("a\u2028b\x85c", "a b c"),
        ("\ufdd0a\U0002ffffb\uffff", "ab"),
        ("か\u3099 Zoe\u0308 ﾊﾞ", "が Zoë ﾊﾞ"),
        ("\ufa19谷 \ufa10田 か\u3099", "\ufa19谷 \ufa10田 が"),
        ("葛\U000e0100城", "葛\U000e0100城"),
        ("\u0645\u062d\u0645\u062f", "\u0645\u062d\u0645\u062f"),
    ],
)
def test_cleaning(text: str, expected: str) -> None:
    assert clean(text) == expected


@given(NASTY)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert is_clean(clean(text))


def test_padding_counts_columns() -> None:
    assert pad("あと1日", ["13日超過", "x"]) == "あと1日 "


@pytest.mark.parametrize("name", ["mail.ja.html", "mail.ja.txt", "mail.ja.subject.txt", "layout.html"])
def test_an_operators_template_replaces_the_shipped_one_of_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{{ office }} & co", encoding="utf-8")
    mail = with_templates(tmp_path).mail(notice(office="<b>"), DELIVERY)
    shipped = JAPANESE.mail(notice(office="<b>"), DELIVERY)
    replaced = {"mail.ja.html": "html", "layout.html": "html", "mail.ja.txt": "text", "mail.ja.subject.txt": "subject"}
    for part in ("html", "text", "subject"):
        escaped = "&lt;b&gt; & co" if part == "html" else "<b> & co"
        assert getattr(mail, part) == (escaped if part == replaced[name] else getattr(shipped, part))


def test_a_subject_is_one_line_whatever_its_template(tmp_path: Path) -> None:
    (tmp_path / "mail.ja.subject.txt").write_text("{{ office }}\n\n" + "{{ product }} " * 99, encoding="utf-8")
    subject = with_templates(tmp_path).mail(notice(), DELIVERY).subject
    assert subject.startswith("ひまわり keikakun keikakun")
    assert len(subject) == SUBJECT


def with_templates(folder: Path) -> Renderer:
    return Renderer(evolve(SETTINGS, content=evolve(SETTINGS.content, templates=str(folder))))


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (b"{{ office", r"mail\.ja\.txt, line 1"),
        (b"{{ ofice }}", "'ofice' is undefined"),
        (b"{% if groups[0].tone == 'missing' %}{{ oops }}{% endif %}", "'oops' is undefined"),
        (b"{% if unlisted %}{{ 1 / 0 }}{% endif %}", "ZeroDivisionError"),
        (b"{% include 'none.txt' %}", "none.txt"),
        (b"\xff", "UnicodeDecodeError"),
    ],
)
def test_a_bad_template_is_found_at_the_start(tmp_path: Path, template: bytes, problem: str) -> None:
    (tmp_path / "mail.ja.txt").write_bytes(template)
    with pytest.raises(ConfigError, match=f"^content.templates: .*{problem}"):
        with_templates(tmp_path)


# Trials --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("renderer", "mark", "office"),
    [
        (JAPANESE, "【試験送信】", "試験送信の見本事業所"),
        (ENGLISH, "[Test] ", "Sample office of a test message"),
    ],
)
def test_a_trial_says_in_each_part_that_it_is_one(renderer: Renderer, mark: str, office: str) -> None:
    """Also where an operator's own templates show nothing but the office."""
    staff = notice().staff
    mail = renderer.trial_mail(staff, notice().day)
    assert mail.subject.startswith(mark)
    assert all(office in part for part in (mail.subject, mail.text, mail.html))
    push = renderer.trial_push(notice().office_id, staff, DEVICE, notice().day, 60)
    found = json.loads(push.payload)
    assert found["title"].startswith(mark)
    assert office in found["title"]
    assert found["data"]["office_id"] == str(notice().office_id)


def test_a_trial_push_replaces_neither_a_real_one_nor_another_trial() -> None:
    real = JAPANESE.push(notice(), DELIVERY, DEVICE, 60)
    trials = [JAPANESE.trial_push(notice().office_id, notice().staff, DEVICE, notice().day, 60) for _ in range(2)]
    assert len({push.topic for push in (real, *trials)}) == 3
    assert len({push.delivery_id for push in trials}) == 2


# What is new ---------------------------------------------------------------------------------------------------------

NEWS = (renewal(-4, "青木 一"), renewal(-1, "井上 二"), renewal(0, "上田 三"), renewal(7, "江口 四"))


def words_of(html: str) -> str:
    """The text of a page, in one line."""
    return " ".join(re.sub(r"<[^>]+>", "", html).split())


def test_a_mail_says_above_its_lists_what_is_new_in_both_parts() -> None:
    mail = JAPANESE.mail(evolve(notice(*NEWS, renewal(20), assessment()), news=NEWS), DELIVERY)
    lines = mail.text.splitlines()
    start = lines.index("◆ 前回のお知らせからの変更")
    assert lines[start + 1 : start + 6] == [
        "  青木 一 様（第2期）：期限を過ぎました（4日超過）",
        "  井上 二 様（第2期）：本日から期限超過",
        "  上田 三 様（第2期）：本日が期限になりました",
        "  江口 四 様（第2期）：あと7日になりました",
        "",
    ]
    assert start < lines.index("■ 期限超過・本日期限（3件）")
    shown = words_of(mail.html)
    assert "青木 一 様 第2期 期限を過ぎました（4日超過） 井上 二 様 第2期 本日から期限超過" in shown
    assert shown.index("前回のお知らせからの変更") < shown.index("期限超過・本日期限（3件）")


def test_a_mail_in_english_says_what_is_new() -> None:
    mail = ENGLISH.mail(evolve(notice(*NEWS), news=NEWS), DELIVERY)
    lines = mail.text.splitlines()
    start = lines.index("New since the last notice")
    assert lines[start + 1 : start + 5] == [
        "  青木 一 (cycle 2): now 4 days overdue",
        "  井上 二 (cycle 2): overdue from today",
        "  上田 三 (cycle 2): due today",
        "  江口 四 (cycle 2): now 7 days left",
    ]
    assert "江口 四 cycle&nbsp;2 now 7 days left" in words_of(mail.html)


def test_a_mail_without_news_has_no_heading_for_it() -> None:
    for renderer, heading in ((JAPANESE, "前回のお知らせ"), (ENGLISH, "New since")):
        mail = renderer.mail(notice(), DELIVERY)
        assert heading not in mail.text + mail.html


def test_the_first_10_changes_are_listed_and_the_others_counted() -> None:
    """Also those of which a mail has no names."""
    alerts = (*(renewal(7, f"recipient {n}") for n in range(14)), evolve(renewal(7), unlisted=500))
    for renderer, rest in ((JAPANESE, "ほか504件"), (ENGLISH, "And 504 more.")):
        mail = renderer.mail(evolve(notice(*alerts), news=alerts), DELIVERY)
        assert f"  {rest}\n" in mail.text
        assert rest in mail.html
        assert mail.text.count("recipient 9") == 2
        assert mail.text.count("recipient 10") == 1


@given(NASTY)
def test_a_name_in_the_news_is_cleaned_and_cut_as_in_the_lists(name: str) -> None:
    alerts = (renewal(7, name),)
    mail = JAPANESE.mail(evolve(notice(*alerts), news=alerts), DELIVERY)
    shown = cut(clean(name), NAME) or "（名称なし）"
    assert f"  {shown} 様（第2期）：あと7日になりました\n" in mail.text
