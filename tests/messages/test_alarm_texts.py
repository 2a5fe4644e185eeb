"""The texts of alarms: every alarm has one in each language, and both say the same."""

import ast
import re
from collections.abc import Mapping
from datetime import timedelta
from string import Formatter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.config.settings import Language, WatchSettings
from notifierd.messages.alarm_texts import ALARMS, FRAMES, AlarmText
from notifierd.messages.alarms import MOST_NAMED, worded
from notifierd.model.counts import Backlog, ChannelCounts, DayCounts, Failure, Untold
from notifierd.model.delivery import Channel
from notifierd.model.message import Alarm
from notifierd.model.reasons import Reason
from notifierd.rules import alarms
from notifierd.rules.alarms import Running
from tests.support.manual import REPOSITORY
from tests.support.samples import DAY, an_id

LANGUAGES: tuple[Language, ...] = get_args(Language)


def every_alarm() -> Mapping[str, Alarm]:
    """One alarm of each kind, as the code raises it."""
    refused = {"resend": {"resend": "blocked:401"}}
    by_proxy = {"resend": {"resend": "proxy_auth_required"}}
    failures = tuple(Failure(an_id(str(number)), Channel.EMAIL, "rejected:422") for number in range(1200))
    lost = DayCounts(
        9,
        0,
        ChannelCounts(planned=1500, sent=300, failed=1200),
        ChannelCounts(),
        Backlog(0, due_now=False, next_in=None),
        untold=(Untold(an_id("a"), 3, 2), Untold(an_id("b"), 1, 0)),
        failures=failures,
    )
    cut = DayCounts(9, 0, lost.email, lost.push, lost.backlog, failures=failures[:1000], failures_omitted=200)
    watch = WatchSettings()
    raised = [
        *alarms.while_running(Running(DAY, 1234.5, done=7, offices=1500, blocked=refused, out=refused), watch),
        *alarms.while_running(Running(DAY, 0.0, blocked=by_proxy), watch),
        alarms.configs_differ(DAY, "web1:812:5f3a09c4", ["content", "window"]),
        *alarms.at_end(DAY, lost, watch),
        *alarms.at_end(DAY, cut, watch),
        alarms.untold_later(DAY, lost.untold),
        *alarms.bounces(DAY, 5000, 250, watch),
        alarms.complaint(DAY, 1),
        alarms.no_feedback(DAY, "ses", "timeout"),
        alarms.enforcement(DAY, "ses", "probation"),
        alarms.missed({DAY - timedelta(days=1): "slept_through", DAY: "not_running"}),
        alarms.failed(DAY, "notifierd.staff: column name (text) is missing"),
        alarms.crashed(DAY, "KeyError"),
        alarms.never_resumed(DAY, "run_died", over=False),
        alarms.never_resumed(DAY, "run_died", over=True),
    ]
    return {alarm.kind: alarm for alarm in raised}


RAISED = every_alarm()


def mentioned(text: AlarmText) -> set[str]:
    parts = Formatter().parse(f"{text.title} {text.text} {text.advice}")
    return {name for _, name, _, _ in parts if name}


def test_every_alarm_of_the_code_has_its_text_and_no_text_is_left_over():
    code = ast.parse((REPOSITORY / "notifierd/rules/alarms.py").read_text(encoding="utf-8"))
    made = [call for call in ast.walk(code) if isinstance(call, ast.Call) and ast.unparse(call.func) == "Alarm"]
    kinds = {each.value for call in made for each in ast.walk(call.args[2]) if isinstance(each, ast.Constant)}
    assert kinds == RAISED.keys() == ALARMS.keys()


@pytest.mark.parametrize("kind", ALARMS)
def test_both_languages_say_the_same(kind: str):
    """Each has a title, what happened and what to do, and mentions the same values: all that the alarm has."""
    texts = ALARMS[kind]
    assert texts.keys() == set(LANGUAGES)
    for text in texts.values():
        assert text.title
        assert text.text
        assert text.advice
    used = {language: mentioned(text) - {"day"} for language, text in texts.items()}
    assert used["ja"] == used["en"] == RAISED[kind].values.keys() - ({"listed"} if kind == "failures" else set())
    assert ("day" in mentioned(texts["ja"])) == ("day" in mentioned(texts["en"]))
    named = [set(re.findall(r"`[^`]+`|\b[a-z]+\.[a-z_]+\b", f"{each.text} {each.advice}")) for each in texts.values()]
    assert named[0] == named[1], "commands and keys"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ALARMS)
def test_a_text_is_whole(kind: str, language: Language):
    message = worded(RAISED[kind], language, host="host", page="127.0.0.1:9464")
    whole = f"{message.title}\n{message.words}\n{message.look}"
    assert not re.search(r"[{}#|]", whole)
    assert len(message.title) <= 60
    assert bool(re.search(r"[ぁ-ん]", message.title)) == (language == "ja")
    end = "。" if language == "ja" else "."
    assert kind == "failed" or all(line.endswith(end) for line in message.text.splitlines())
    assert message.look.endswith("127.0.0.1:9464）" if language == "ja" else "127.0.0.1:9464.")


def said(alarm: Alarm) -> str:
    return worded(alarm, "ja", host="host", page="").text


def test_the_most_frequent_reasons_of_failures_are_explained():
    many = {
        "email rejected:422": 1,
        "push window_ended (timeout)": 9,
        "email odd": 3,
        "email rejected:400": 2,
        "push gone": 1,
    }
    alarm = Alarm(DAY, "failures", "failures", {**RAISED["failures"].values, "reasons": many})
    for language in LANGUAGES:
        lines = worded(alarm, language, host="", page="").text.splitlines()
        reasons = (Reason.WINDOW_ENDED, Reason.REJECTED)
        assert lines[1:-1] == [f"{each}: {each.japanese if language == 'ja' else each.english}" for each in reasons]


def test_numbers_lists_and_reasons_in_japanese():
    assert said(RAISED["slow"]).splitlines()[0] == (
        "2026-11-24 の実行は、開始から 1,234 秒たっても終わっていません（watch.run_seconds は 600）。"
        "事業所 1,500 か所のうち 7 か所が済み、実行は続いています。"
    )
    assert said(RAISED["failures_cut"]).startswith(
        "2026-11-24 の配信 1,500 件のうち 1,200 件が誰にも届きませんでした"
        "（80.0%。watch.failure_ratio は 0.05）。最初の 1,000 件の理由: メール rejected:422（1,000 件）。"
    )
    assert "2026-11-24（notifierd が動いていませんでした）、2026-11-23（マシンがスリープしたか" in said(
        RAISED["missed"]
    )
    many = Alarm(DAY, "blocked:webpush", "blocked", {"sender": "webpush", "reasons": tuple("abcdefg")})
    assert "（a、b、c、d、e、ほか 2 件）" in said(many)


@pytest.mark.parametrize(("offices", "named", "more"), [(1, 1, ""), (20, 20, ""), (21, 20, "ほか 1 か所")])
def test_twenty_offices_are_named(offices: int, named: int, more: str):
    ids = tuple(an_id(str(number)) for number in range(offices))
    message = worded(Alarm(DAY, "failed", "crashed", {"error": "KeyError"}, ids), "ja", host="", page="")
    assert message.offices == ("対象の事業所:", *map(str, ids[:named]), *filter(None, [more]))
    assert MOST_NAMED == 20
    assert message.words.splitlines()[2:] == [*message.offices]


def test_each_language_names_the_same_reasons_of_a_missed_day():
    assert FRAMES["ja"].why_missed.keys() == FRAMES["en"].why_missed.keys()


@settings(max_examples=60)
@given(
    why=st.builds(lambda text, times: text * times, st.text(max_size=9), st.integers(0, 2000)),
    offices=st.integers(0, 30),
    page=st.sampled_from(["", "[::1]:9464"]),
)
def test_however_much_there_is_to_say_a_body_ends_with_where_to_look(why: str, offices: int, page: str):
    """Even if each character takes five, as an ampersand in HTML."""
    ids = tuple(an_id(str(number)) for number in range(offices))
    message = worded(Alarm(DAY, "failed", "failed", {"why": why}, ids), "en", host="host", page=page)
    for write in (str, lambda text: text.replace("&", "&amp;").replace("a", "&amp;")):
        body = message.body(2000, write)
        assert len(body) <= 2000
        assert body.endswith(write("\n".join(["", *message.offices, message.look])))
        assert body.startswith(write("The run of 2026-11-24 failed: "))
