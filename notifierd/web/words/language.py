"""The page's texts and formats, in Japanese and in English."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from attrs import frozen

from notifierd.config.settings import Language
from notifierd.model.reasons import Reason
from notifierd.web.words.phrases import PHRASES

LANGUAGES: Final[tuple[Language, Language]] = ("ja", "en")
_WEEKDAYS: Final[Mapping[Language, Sequence[str]]] = {
    "ja": ("月", "火", "水", "木", "金", "土", "日"),
    "en": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MINUTE, HOUR, DAY = 60, 3600, 86_400
MOST_ASKED: Final = 1_000
"""The most characters of Accept-Language that are read; browsers send about a hundred."""


def preferred(accept_language: str, otherwise: Language) -> Language:
    """Return the language that a browser prefers (RFC 9110, section 12.5.4), if we have it, else *otherwise*."""
    weights: dict[Language, float] = {}
    for part in accept_language[:MOST_ASKED].split(","):
        tag, _, quality = part.partition(";")
        try:
            weight = float(quality.partition("q=")[2] or 1)
        except ValueError:
            continue
        for language in LANGUAGES:
            if tag.strip().lower().partition("-")[0] == language:
                weights[language] = max(weight, weights.get(language, 0.0))
    wanted = [language for language in weights if weights[language] > 0]
    return max(wanted, key=lambda language: weights[language], default=otherwise)


@frozen
class Words:
    """One language, and the time zone in which times are shown."""

    language: Language
    zone: ZoneInfo

    def __call__(self, key: str, **values: object) -> str:
        """Return a phrase with its values filled in."""
        return PHRASES[key][LANGUAGES.index(self.language)].format(**values)

    def why(self, reason: str) -> str:
        """Return what a reason means and what to do about it; empty for a reason that explains itself."""
        found = Reason.explaining(reason)
        if found is None:
            return ""
        return found.japanese if self.language == "ja" else found.english

    def number(self, number: float) -> str:
        """Format a count."""
        return f"{number:,.0f}"

    def day(self, day: date) -> str:
        """Format a day with its weekday."""
        weekday = _WEEKDAYS[self.language][day.weekday()]
        if self.language == "ja":
            return f"{day.month}月{day.day}日({weekday})"
        return f"{weekday} {day.day} {_MONTHS[day.month - 1]}"

    def full_day(self, day: date) -> str:
        """Format a day with its year."""
        return f"{day.year}年{self.day(day)}" if self.language == "ja" else f"{self.day(day)} {day.year}"

    def shifted(self, day: date, by: int) -> date | None:
        """Return the day *by* days later; None beyond the end of the calendar."""
        try:
            return day + timedelta(days=by)
        except OverflowError:
            return None

    def time(self, moment: datetime) -> str:
        """Format a time of day, to the second."""
        return moment.astimezone(self.zone).strftime("%H:%M:%S")

    def moment(self, moment: datetime) -> str:
        """Format a day and a time, to the minute."""
        local = moment.astimezone(self.zone)
        return f"{self.day(local.date())} {local:%H:%M}"

    def span(self, seconds: float) -> str:
        """Format a duration in its two largest units."""
        if seconds < MINUTE:
            return self("seconds", n=f"{max(seconds, 0):.0f}")
        if seconds < HOUR:
            minutes, rest = divmod(int(seconds), MINUTE)
            return self("minutes", m=minutes, s=rest) if seconds < 10 * MINUTE else self("only_minutes", m=minutes)
        if seconds < 2 * DAY:
            hours, rest = divmod(int(seconds) // MINUTE, 60)
            return self("hours", h=hours, m=rest)
        return self("days", d=int(seconds) // DAY, h=int(seconds) % DAY // HOUR)
