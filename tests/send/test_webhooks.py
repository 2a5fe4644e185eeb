"""The formats of the webhook: what each receiver gets, and what its answers mean."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import parse_qs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.config.settings import WatchSettings, WebhookFormat
from notifierd.messages.alarms import worded
from notifierd.model.message import Alarm, AlarmMessage
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._answers import Answer
from notifierd.send.webhooks import LONGEST, LONGEST_TITLE, mismatch, of_room, of_webhook, request_of, room_url
from tests.support.samples import DAY, an_id

FORMATS: tuple[WebhookFormat, ...] = get_args(WebhookFormat)
NOW = datetime(2026, 11, 24, tzinfo=UTC)
TOKEN = "chatwork-token-of-the-tests"
ROOM = "https://api.chatwork.com/v2/rooms/123/messages"


def message(why: str = "what happened", language: Any = "en", **more: Any) -> AlarmMessage:
    alarm = Alarm(DAY, "failed", "failed", {"why": why}, fails=True, **more)
    return worded(alarm, language, host="host.example.jp", page="127.0.0.1:9464")


def posted(form: WebhookFormat, of: AlarmMessage) -> Any:
    """What the receiver reads: JSON, or the message of Chatwork."""
    request = request_of(of, WatchSettings(format=form, webhook_token=TOKEN if form == "chatwork" else ""))
    if form == "chatwork":
        assert request.headers == {"Content-Type": "application/x-www-form-urlencoded", "X-ChatWorkToken": TOKEN}
        assert TOKEN not in repr(request)
        fields = parse_qs(request.body.decode(), strict_parsing=True)
        assert fields.keys() == {"body", "self_unread"}
        return fields["body"][0]
    assert request.headers == {"Content-Type": "application/json"}
    return json.loads(request.body)


# The bodies ----------------------------------------------------------------------------------------------------------

TEXT = "The run of 2026-11-24 failed: what happened.\n`notifierd check` shows what to fix."
LOOK = "See `notifierd status`, `notifierd history`, the page at 127.0.0.1:9464."


def test_slack_gets_json_with_a_text_for_people_and_fields_for_programs():
    ids = (an_id("a"), an_id("b"))
    assert posted("slack", message(offices=ids)) == {
        "text": f"notifierd: {TEXT}\nOffices:\n{ids[0]}\n{ids[1]}\n{LOOK}",
        "attachments": [
            {
                "fallback": "2026-11-24 failed",
                "color": "danger",
                "fields": [
                    {"title": "Day", "value": "2026-11-24", "short": True},
                    {"title": "Cause", "value": "failed", "short": True},
                    {"title": "Host", "value": "host.example.jp", "short": True},
                ],
            }
        ],
    }
    assert posted("slack", message(language="ja"))["attachments"] == posted("slack", message())["attachments"]


def test_teams_gets_an_adaptive_card():
    (attachment,) = posted("teams", message(language="ja"))["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    title, text, facts = card["body"]
    assert (title["text"], title["color"]) == ("notifierd: 実行に失敗しました", "Attention")
    assert text["text"].split("\n\n") == [
        "2026-11-24 の実行に失敗しました: what happened",
        "直すべき点は `notifierd check` で確認できます。",
        "確認先: `notifierd status`、`notifierd history`、ページ（127.0.0.1:9464）",
    ]
    assert text["wrap"]
    assert facts["facts"] == [
        {"title": "日付", "value": "2026-11-24"},
        {"title": "種別", "value": "failed"},
        {"title": "ホスト", "value": "host.example.jp"},
    ]


def test_chatwork_gets_a_framed_message_with_a_title_that_counts_as_unread():
    assert posted("chatwork", message(language="ja")) == (
        "[info][title]notifierd: 実行に失敗しました[/title]"
        "2026-11-24 の実行に失敗しました: what happened\n直すべき点は `notifierd check` で確認できます。\n"
        "確認先: `notifierd status`、`notifierd history`、ページ（127.0.0.1:9464）"
        "[hr]日付: 2026-11-24\n種別: failed\nホスト: host.example.jp[/info]"
    )


def test_line_works_gets_a_title_and_a_text():
    assert posted("lineworks", message(language="ja")) == {
        "title": "notifierd: 実行に失敗しました",
        "body": {
            "text": "2026-11-24 の実行に失敗しました: what happened\n直すべき点は `notifierd check` で確認できます。\n"
            "確認先: `notifierd status`、`notifierd history`、ページ（127.0.0.1:9464）\n"
            "日付: 2026-11-24\n種別: failed\nホスト: host.example.jp"
        },
    }


MARKUP = "a <!channel> & [toall] [x](https://example.net) *b* <m userId='u'> @all @here"


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("slack", "a &lt;!channel&gt; &amp; [toall] [x](https://example.net) *b* &lt;m userId='u'&gt; ＠all ＠here"),
        ("teams", "a ＜!channel> & ［toall］ ［x］(https://example.net) ＊b＊ ＜m userId='u'> @all @here"),
        ("chatwork", "a ＜!channel> & ［toall］ ［x］(https://example.net) ＊b＊ ＜m userId='u'> @all @here"),
        ("lineworks", "a ＜!channel> & ［toall］ ［x］(https://example.net) ＊b＊ ＜m userId='u'> @all @here"),
    ],
)
def test_what_a_receiver_would_read_as_markup_or_as_a_call_is_none(form: WebhookFormat, shown: str):
    assert shown in json.dumps(posted(form, message(MARKUP)), ensure_ascii=False)


def longest_texts(form: WebhookFormat, body: Any) -> dict[str, int]:
    """The lengths that a receiver limits, by its name for them."""
    match form:
        case "slack":
            return {"text": len(body["text"])}
        case "teams":
            return {"text": len(body["attachments"][0]["content"]["body"][1]["text"])}
        case "chatwork":
            return {"text": len(body.partition("[/title]")[2].partition("[hr]")[0])}
        case "lineworks":
            return {"header": len(body["title"]), "text": len(body["body"]["text"])}


@settings(max_examples=40)
@given(
    why=st.builds(lambda text, times: text * times, st.text("あ&<[*\n𩸽 x", max_size=9), st.integers(0, 2000)),
    offices=st.integers(0, 30),
    language=st.sampled_from(["ja", "en"]),
)
def test_no_body_is_longer_than_its_receiver_takes(why: str, offices: int, language: str):
    """And a card of Teams has less than 28 KB, even if each character is written as an escape."""
    ids = tuple(an_id(str(number)) for number in range(offices))
    of = message(why, language, offices=ids)
    for form in FORMATS:
        lengths = longest_texts(form, posted(form, of))
        assert lengths.pop("header", 0) <= LONGEST_TITLE
        assert max(lengths.values()) <= LONGEST
    assert len(request_of(of, WatchSettings(format="teams")).body) < 28 * 1024


# What is answered ----------------------------------------------------------------------------------------------------

TAKEN: Mapping[WebhookFormat, Answer] = {
    "slack": Answer(200, {}, b"ok"),
    "teams": Answer(202, {}),
    "chatwork": Answer(200, {}, b'{"message_id": "1234"}'),
    "lineworks": Answer(200, {}, b'{"code": "200"}'),
}


@pytest.mark.parametrize("form", FORMATS)
def test_each_receiver_says_in_its_own_way_that_it_took_a_message(form: WebhookFormat):
    assert of_webhook(TAKEN[form], NOW, form) == Delivered()


@pytest.mark.parametrize(
    ("form", "body"),
    [("chatwork", b"<html>"), ("chatwork", b"{}"), ("chatwork", b"[1]")],
)
def test_a_200_that_is_not_the_receivers_own_is_tried_again(form: WebhookFormat, body: bytes):
    assert of_webhook(Answer(200, {}, body), NOW, form) == Deferred("not_the_provider:200", blame=Blame.PATH)


LATER = {"x-ratelimit-reset": str(int(NOW.timestamp()) + 90), "ratelimit-reset": "12"}


@pytest.mark.parametrize(
    ("form", "answer", "expected"),
    [
        ("slack", Answer(400, {}, b"invalid_payload"), Rejected("rejected:400")),
        ("slack", Answer(404, {}, b"no_service"), Rejected("rejected:404")),
        ("slack", Answer(410, {}, b"channel_is_archived"), Rejected("rejected:410")),
        ("slack", Answer(403, {}, b"action_prohibited"), Blocked("blocked:403")),
        ("slack", Answer(429, {"retry-after": "30"}), Deferred("rate_limited:429", 30.0, Blame.PROVIDER)),
        ("teams", Answer(413, {}), Rejected("rejected:413")),
        ("teams", Answer(429, LATER), Deferred("rate_limited:429", None, Blame.PROVIDER)),
        ("teams", Answer(502, {}), Unknown("server_error:502")),
        ("chatwork", Answer(401, {}, b'{"errors": ["Invalid API token"]}'), Blocked("blocked:401")),
        ("chatwork", Answer(404, {}), Rejected("rejected:404")),
        ("chatwork", Answer(429, LATER), Deferred("rate_limited:429", 90.0, Blame.PROVIDER)),
        ("chatwork", Answer(429, {"retry-after": "5", **LATER}), Deferred("rate_limited:429", 5.0, Blame.PROVIDER)),
        ("chatwork", Answer(429, {"x-ratelimit-reset": "x"}), Deferred("rate_limited:429", None, Blame.PROVIDER)),
        ("chatwork", Answer(503, LATER), Deferred("server_error:503", None, Blame.PATH)),
        ("lineworks", Answer(429, LATER), Deferred("rate_limited:429", 12.0, Blame.PROVIDER)),
        ("lineworks", Answer(404, {}), Rejected("rejected:404")),
        ("slack", Answer(429, LATER), Deferred("rate_limited:429", None, Blame.PROVIDER)),
    ],
)
def test_an_answer_that_is_no_yes_is_read_as_any_receivers(form: WebhookFormat, answer: Answer, expected: Outcome):
    assert of_webhook(answer, NOW, form) == expected


@pytest.mark.parametrize(
    ("answer", "outcome", "notes"),
    [
        (Answer(200, {}, b'{"room_id": 123, "role": "member"}'), Delivered(), 0),
        (Answer(200, {}, b'{"room_id": 123, "role": "readonly"}'), Delivered(), 1),
        (Answer(200, {}, b"<html>"), Deferred("not_the_provider:200", blame=Blame.PATH), 0),
        (Answer(401, {}), Blocked("blocked:401"), 0),
        (Answer(404, {}), Blocked("blocked:404"), 0),
    ],
)
def test_the_room_of_chatwork_proves_the_token(answer: Answer, outcome: Outcome, notes: int):
    found, said = of_room(answer, NOW)
    assert (found, len(said)) == (outcome, notes)


# Which format for whom -----------------------------------------------------------------------------------------------

SLACK = "https://hooks.slack.com/services/T0/B0/secret"
TEAMS = "https://default1.2.environment.api.powerplatform.com:443/powerautomate/automations/direct/workflows/secret"
LINEWORKS = "https://webhook.worksmobile.com/message/secret"


@pytest.mark.parametrize(
    ("url", "formats"),
    [
        (SLACK, {"slack"}),
        (TEAMS, {"teams"}),
        ("https://prod-01.japaneast.logic.azure.com:443/workflows/secret", {"teams"}),
        (ROOM, {"chatwork"}),
        (LINEWORKS, {"lineworks"}),
        ("https://chat.example.jp/hooks/secret", {"slack", "teams", "lineworks"}),
        ("https://example.webhook.office.com/webhookb2/secret", set()),
        ("", set(FORMATS)),
    ],
)
def test_a_receiver_that_is_known_has_its_formats(url: str, formats: set[str]):
    found = {form for form in FORMATS if not mismatch(_watch(url, form))}
    assert found == formats
    assert not [form for form in FORMATS if "secret" in mismatch(_watch(url, form))]


def _watch(url: str, form: WebhookFormat) -> WatchSettings:
    return WatchSettings(webhook_url=url, format=form, webhook_token=TOKEN if form == "chatwork" else "")


@pytest.mark.parametrize(
    ("url", "room"),
    [
        (ROOM, "https://api.chatwork.com/v2/rooms/123"),
        ("http://127.0.0.1:8000/v2/rooms/1/messages", "http://127.0.0.1:8000/v2/rooms/1"),
        ("https://api.chatwork.com/v2/rooms/messages", ""),
        ("https://api.chatwork.com/v2/rooms/rid1/messages", ""),
        (f"{ROOM}/", ""),
    ],
)
def test_the_room_is_read_out_of_the_url(url: str, room: str):
    assert room_url(url) == room
