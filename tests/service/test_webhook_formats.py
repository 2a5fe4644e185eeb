"""Alarms in each format of the webhook, over real HTTP on loopback: what is posted, and what becomes of it."""

import json
from datetime import date
from typing import get_args
from urllib.parse import parse_qs

import pytest
from structlog.testing import capture_logs

from notifierd.config.settings import ContentSettings, Language, Settings, WatchSettings, WebhookFormat
from notifierd.model.message import Alarm
from notifierd.service.watch import one_client, open_watch
from tests.support.receivers import SECRET, Got, Receivers, receiving
from tests.support.samples import DAY

FORMATS: tuple[WebhookFormat, ...] = get_args(WebhookFormat)
TOKEN = "chatwork-token-of-the-tests"
SAID = {"slack": "ok", "chatwork": '{"message_id": "1234"}'}
STATUS = {"teams": 202}
ALARM = Alarm(DAY, "untold", "untold", {"overdue": 3, "offices": 2})


async def new(_settings: Settings, _day: date, _cause: str) -> bool:
    return True


async def told(receivers: Receivers, form: WebhookFormat, language: Language, said: str) -> str:
    """Raise ALARM; return what the log says."""
    token = TOKEN if form == "chatwork" else ""
    with capture_logs() as lines:
        async with receiving(receivers, said=said) as urls:
            watch = WatchSettings(webhook_url=str(urls["webhook_url"]), format=form, webhook_token=token)
            settings = Settings(content=ContentSettings(language=language), watch=watch)
            async with open_watch(lambda: settings, new, one_client) as opened:
                opened.tell(ALARM)
    assert SECRET not in str(lines)
    assert TOKEN not in str(lines)
    (line,) = lines
    return f"{line['event']} {line.get('reason', '')}".strip()


def shown(got: Got, form: WebhookFormat) -> str:
    """What a person reads."""
    if form == "chatwork":
        return parse_qs(got.body.decode())["body"][0]
    return json.dumps(json.loads(got.body), ensure_ascii=False)


@pytest.mark.parametrize("form", FORMATS)
async def test_an_alarm_arrives_in_the_language_of_the_messages(form: WebhookFormat):
    for language, words in (("ja", "事業所へ直接ご連絡ください。"), ("en", "Contact these offices yourself.")):
        receivers = Receivers(answers=lambda _: STATUS.get(form, 200))
        assert await told(receivers, form, "ja" if language == "ja" else "en", SAID.get(form, "")) == "watch_told"
        (got,) = receivers.got
        assert words in shown(got, form)
        assert got.token == (TOKEN if form == "chatwork" else "")


@pytest.mark.parametrize(
    ("form", "status", "said", "result"),
    [
        ("slack", 400, "invalid_payload", "watch_not_told rejected:400"),
        ("teams", 401, "", "watch_not_told blocked:401"),
        ("chatwork", 401, '{"errors": ["Invalid API token"]}', "watch_not_told blocked:401"),
        ("lineworks", 404, "", "watch_not_told rejected:404"),
    ],
)
async def test_a_receiver_that_refuses_is_told_once(form: WebhookFormat, status: int, said: str, result: str):
    receivers = Receivers(answers=lambda _: status)
    assert await told(receivers, form, "ja", said) == result
    assert len(receivers.got) == 1


async def test_a_200_of_something_else_on_the_way_is_no_chatwork_that_took_it():
    """A captive portal: tried again at once, as the watch is closing, and given up."""
    receivers = Receivers(answers=lambda _: 200)
    assert await told(receivers, "chatwork", "ja", "<html>") == "watch_not_told not_the_provider:200"
    assert len(receivers.got) == 5
