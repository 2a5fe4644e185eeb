"""The page's words in both languages, its templates' use of them, and the chart's arithmetic."""

import re
import string
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import notifierd
from notifierd.model.counts import ChannelCounts
from notifierd.model.feedback import MailStatus
from notifierd.store.history import Day
from notifierd.web.chart import COLUMN, HEIGHT, LEAST, chart
from notifierd.web.words.language import Words, preferred
from notifierd.web.words.phrases import PHRASES

PACKAGE = Path(notifierd.__file__).parent
TOKYO = ZoneInfo("Asia/Tokyo")
JA, EN = Words("ja", TOKYO), Words("en", TOKYO)
TUESDAY = date(2026, 11, 24)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "ja"),
        ("ja", "ja"),
        ("en", "en"),
        ("en-GB,en;q=0.9,ja;q=0.8", "en"),
        ("ja-JP,en;q=0.9", "ja"),
        ("de,fr;q=0.5", "ja"),
        ("de, en;q=0.1", "en"),
        ("en;q=0.5, ja;q=0.6", "ja"),
        ("en;q=0", "ja"),
        ("EN-us", "en"),
        ("english", "ja"),
        ("en;q=much, ja;q=0.1", "ja"),
        ("*;q=1", "ja"),
    ],
)
def test_the_readers_language_is_the_one_of_ours_that_the_browser_likes_best(header: str, language: str):
    assert preferred(header, "ja") == language


@given(st.text(max_size=100))
def test_no_header_is_too_odd(header: str):
    assert preferred(header, "en") in {"ja", "en"}


@pytest.mark.parametrize(
    ("seconds", "ja", "en"),
    [
        (-3.0, "0秒", "0 s"),
        (0.4, "0秒", "0 s"),
        (59.0, "59秒", "59 s"),
        (60.0, "1分0秒", "1 min 0 s"),
        (599.0, "9分59秒", "9 min 59 s"),
        (600.0, "10分", "10 min"),
        (3599.0, "59分", "59 min"),
        (3600.0, "1時間0分", "1 h 0 min"),
        (36_899.0, "10時間14分", "10 h 14 min"),
        (172_799.0, "47時間59分", "47 h 59 min"),
        (172_800.0, "2日0時間", "2 d 0 h"),
        (266_400.0, "3日2時間", "3 d 2 h"),
    ],
)
def test_a_length_of_time_is_told_in_its_two_largest_units(seconds: float, ja: str, en: str):
    assert (JA.span(seconds), EN.span(seconds)) == (ja, en)


def test_days_and_moments_are_those_of_the_windows_zone():
    moment = datetime(2026, 11, 23, 15, 30, 5, tzinfo=UTC)
    assert (JA.moment(moment), EN.moment(moment)) == ("11月24日(火) 00:30", "Tue 24 Nov 00:30")
    assert (JA.time(moment), EN.time(moment)) == ("00:30:05", "00:30:05")
    assert (JA.full_day(TUESDAY), EN.full_day(TUESDAY)) == ("2026年11月24日(火)", "Tue 24 Nov 2026")
    assert JA.number(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("reason", "begins"),
    [
        ("rejected:item", "The provider permanently rejected this message"),
        ("rejected:422", "The provider permanently rejected this message"),
        ("window_ended (server_error:500)", "The window ended before"),
        ("window_ended_in_doubt (cut)", "The window ended. An earlier"),
        ("office_error:KeyError", "This office's data"),
        ("holiday: 勤労感謝の日", "The day is a public holiday"),
        ("never_resumed (signal)", "The run was interrupted"),
        ("batch_rejected:422", "The provider rejected a call"),
        ("token_blocked:401", "Google issued no access token"),
        ("something_else", ""),
        ("", ""),
    ],
)
def test_a_reason_is_explained_by_its_first_word(reason: str, begins: str):
    assert EN.why(reason).startswith(begins)
    assert bool(EN.why(reason)) == bool(begins) == bool(JA.why(reason))


def test_both_languages_say_the_same_with_the_same_values():
    for key, pair in PHRASES.items():
        ja, en = ({name for _, name, _, _ in string.Formatter().parse(text) if name} for text in pair)
        assert ja == en, key
    assert all(all(pair) for pair in PHRASES.values())


def test_each_phrase_is_used_and_each_that_is_used_is_there():
    texts = [
        file.read_text(encoding="utf-8") for file in [*PACKAGE.glob("web/**/*.py"), *PACKAGE.glob("web/templates/*")]
    ]
    used = set()
    for text in texts:
        used |= set(re.findall(r'\b(?:t|words|self)\(\s*"([a-z_]*[a-z])"', text))
    assert used - PHRASES.keys() == set()
    words = " ".join(texts[i] for i in range(len(texts)) if "PHRASES: Final" not in texts[i])
    spoken = {
        "email",
        "push",
        "gone",
        "open",
        "sending",
        "failed",
        "unknown",
        "expired",
        "sent",
        "planned",
    }  # of a delivery
    spoken |= set(MailStatus)  # of a mail that was accepted
    built = {key for key in PHRASES if key.startswith(("run_", "n_", "advice_"))}  # from a state, too
    statuses = {"starting", "sleeping", "standing_by", "waiting_for_database", "cannot_run", "stopping"}
    assert {key for key in PHRASES if not re.search(rf"""["']{key}["']""", words)} - spoken - built - statuses == set()


# The chart -----------------------------------------------------------------------------------------------------------


def a_day(ago: int, sent: int, lost: int, state: str = "completed") -> Day:
    email = ChannelCounts.of({"sent": sent, "failed": lost})
    return Day(TUESDAY - timedelta(days=ago), state, None, None, None, None, 1, 0, email, ChannelCounts(), None)


def test_each_day_has_its_column_and_the_days_without_a_record_are_empty():
    found = chart((a_day(0, 100, 0), a_day(2, 50, 50), a_day(9, 7, 7)), TUESDAY, 5)
    assert [bar.day for bar in found.bars] == [TUESDAY - timedelta(days=n) for n in (4, 3, 2, 1, 0)]
    assert [bar.x for bar in found.bars] == [0, COLUMN, 2 * COLUMN, 3 * COLUMN, 4 * COLUMN]
    assert [(bar.sent, bar.lost) for bar in found.bars] == [(0, 0), (0, 0), (50, 50), (0, 0), (100, 0)]
    assert (found.width, found.most, found.lost) == (5 * COLUMN, 100, 50)
    half, whole = found.bars[2], found.bars[4]
    assert half.sent_height == half.lost_height == whole.sent_height / 2


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=30))
def test_whatever_the_figures_a_bar_fits_its_box_and_what_there_is_is_seen(figures: list[tuple[int, int]]):
    found = chart([a_day(ago, *both) for ago, both in enumerate(figures)], TUESDAY, 30)
    assert len(found.bars) == 30
    for bar in found.bars:
        assert bar.sent_height + bar.lost_height <= HEIGHT
        assert (bar.sent_height >= LEAST) == (bar.sent > 0)
        assert (bar.lost_height >= LEAST) == (bar.lost > 0)
