"""The wording of deadlines, in Japanese and in English."""

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from notifierd.model.office import Alert, Notice

Tone = Literal["overdue", "soon", "missing"]


class Japanese:
    """The wording of deadlines in Japanese."""

    titles: Mapping[Tone, str] = {"overdue": "期限超過・本日期限", "soon": "期限間近", "missing": "アセスメント未完了"}
    nameless = "（名称なし）"
    trial = "【試験送信】"
    trial_office = "試験送信の見本事業所"
    trial_names = ("見本 花子", "見本 一郎", "見本 次郎")

    def date(self, day: date) -> str:
        return f"{day.year}年{day.month:02}月{day.day:02}日（{'月火水木金土日'[day.weekday()]}）"

    def left(self, days: int) -> str:
        if days == 0:
            return "本日が期限"
        return f"あと{days}日" if days > 0 else f"{-days}日超過"

    def news(self, days: int) -> str:
        if days > 0:
            return f"あと{days}日になりました"
        late = "本日から期限超過" if days == -1 else f"期限を過ぎました（{-days}日超過）"
        return late if days else "本日が期限になりました"

    def cycle(self, number: int) -> str:
        return f"第{number}期"

    def parts(self, notice: Notice) -> list[str]:
        past, today, soon, missing = _tally(notice)
        labels = (("期限超過", past), ("本日期限", today), ("期限間近", soon), ("アセスメント未完了", missing))
        return [f"{label}{count}件" for label, count in labels if count]

    def push_title(self, office: str) -> str:
        return f"期限アラート（{office}）"

    def push_body(self, renewals: int, assessments: int) -> str:
        labels = (("更新期限", renewals), ("アセスメント未完了", assessments))
        return "、".join(f"{label}: {count}件" for label, count in labels if count)


class English:
    """The wording of deadlines in English."""

    titles: Mapping[Tone, str] = {
        "overdue": "Overdue or due today",
        "soon": "Due soon",
        "missing": "Assessment missing",
    }
    nameless = "(no name)"
    trial = "[Test] "
    trial_office = "Sample office of a test message"
    trial_names = ("Sample Hanako", "Sample Ichiro", "Sample Jiro")

    def date(self, day: date) -> str:
        weekday = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[day.weekday()]
        month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[day.month - 1]
        return f"{weekday} {day.day:2} {month} {day.year}"

    def left(self, days: int) -> str:
        if days == 0:
            return "due today"
        counted = f"{abs(days)} day{'' if abs(days) == 1 else 's'}"
        return f"{counted} left" if days > 0 else f"{counted} overdue"

    def news(self, days: int) -> str:
        if days > 0:
            return f"now {self.left(days)}"
        late = "overdue from today" if days == -1 else f"now {self.left(days)}"
        return late if days else "due today"

    def cycle(self, number: int) -> str:
        return f"cycle {number}"

    def parts(self, notice: Notice) -> list[str]:
        past, today, soon, missing = _tally(notice)
        labels = (("overdue", past), ("due today", today), ("due soon", soon))
        parts = [f"{count} {label}" for label, count in labels if count]
        return parts + [f"{missing} assessment{'' if missing == 1 else 's'} missing"] * bool(missing)

    def push_title(self, office: str) -> str:
        return f"Deadline alert ({office})"

    def push_body(self, renewals: int, assessments: int) -> str:
        labels = (("renewals due", renewals), ("assessments missing", assessments))
        return ", ".join(f"{label}: {count}" for label, count in labels if count).capitalize()


TONES: tuple[Tone, ...] = ("overdue", "soon", "missing")


def tone_of(alert: Alert, day: date) -> Tone:
    """Return how urgent *alert* is on *day*; one that is due that day counts as overdue."""
    left = alert.days_left(day)
    if left is None:
        return "missing"
    return "overdue" if left <= 0 else "soon"


def counts_of(notice: Notice) -> Mapping[Tone, int]:
    """Return the number of alerts of *notice* by tone."""
    return count_tones(notice.alerts, notice.day)


@lru_cache(16)
def count_tones(alerts: tuple[Alert, ...], day: date) -> Mapping[Tone, int]:
    """Return the number of *alerts* by tone. Cached, because the staff of an office mostly get the same ones."""
    counts: dict[Tone, int] = dict.fromkeys(TONES, 0)
    for alert in alerts:
        counts[tone_of(alert, day)] += alert.number
    return MappingProxyType(counts)


def _tally(notice: Notice) -> tuple[int, int, int, int]:
    """Count the alerts that are past their day, due on it, due later, and missing."""
    counts = counts_of(notice)
    today = sum(alert.number for alert in notice.alerts if alert.due_on == notice.day)
    return counts["overdue"] - today, today, counts["soon"], counts["missing"]
