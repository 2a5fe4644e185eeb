"""An alarm becomes a message for the operator, in Japanese or in English."""

from collections.abc import Mapping
from datetime import date
from typing import Final

from attrs import frozen

from notifierd.config.settings import Language
from notifierd.messages.alarm_texts import ALARMS, FRAMES, Frame
from notifierd.model.message import Alarm, AlarmMessage
from notifierd.model.reasons import Reason

MOST_NAMED: Final = 20
"""The most offices that one alarm names."""

MOST_EXPLAINED: Final = 2
"""The most reasons of failures that one alarm explains: the most frequent ones."""


def worded(alarm: Alarm, language: Language, *, host: str, page: str) -> AlarmMessage:
    """Put *alarm*, raised on *host*, into words; *page* is the address of the page, "" if there is none."""
    text, frame = ALARMS[alarm.kind][language], FRAMES[language]
    values = {"day": alarm.day} | {name: _shown(value, frame) for name, value in alarm.values.items()}
    offices: list[str] = []
    if alarm.offices:
        offices = [frame.offices, *map(str, alarm.offices[:MOST_NAMED])]
        if (more := len(alarm.offices) - MOST_NAMED) > 0:
            offices.append(frame.more_offices.format(_Number(more)))
    look = frame.look + (frame.page.format(page) if page else "") + ("." if language == "en" else "")
    said = [text.text.format_map(values), *_meanings(alarm, language), text.advice.format_map(values)]
    return AlarmMessage(alarm, host, text.title.format_map(values), "\n".join(said), tuple(offices), look, frame.labels)


def _meanings(alarm: Alarm, language: Language) -> list[str]:
    """Return what the most frequent reasons of failures mean; empty if the alarm counts none."""
    counted = alarm.values.get("reasons")
    if not isinstance(counted, dict):
        return []
    known = [Reason.explaining(str(failure).partition(" ")[2]) for failure, _ in _sorted(counted)]
    found = [reason for reason in dict.fromkeys(known) if reason][:MOST_EXPLAINED]
    return [f"{reason}: {reason.japanese if language == 'ja' else reason.english}" for reason in found]


def _shown(value: object, frame: Frame) -> object:
    """Return *value* as a text can format it."""
    match value:
        case int():
            return _Number(value)
        case dict():
            return _List(tuple(_item(key, found, frame) for key, found in _sorted(value)), frame)
        case tuple():
            return _List(value, frame)
        case _:
            return value


def _sorted(found: Mapping[object, object]) -> list[tuple[object, object]]:
    """Return the items of a mapping: counts from the most frequent on, anything else as it is."""
    return sorted(found.items(), key=lambda item: -item[1] if isinstance(item[1], int) else 0)


def _item(key: object, found: object, frame: Frame) -> str:
    """Return an item of a list: a day with the reason why it was missed, or a reason with its number."""
    if isinstance(key, date):
        return frame.missed.format(day=key, why=frame.why_missed.get(str(found), found))
    channel, space, reason = str(key).partition(" ")
    return frame.counted.format(what=frame.channels.get(channel, channel) + space + reason, n=found)


class _Number(int):
    """A number that shows its thousands, or one of the two phrases that its format names."""

    def __format__(self, form: str) -> str:
        one, or_, many = form.partition("|")
        if or_:
            return (one if self == 1 else many).replace("#", f"{int(self):,}")
        return int.__format__(self, form or ",")


@frozen
class _List:
    """Items that are shown up to the number that the format names."""

    items: tuple[str, ...]
    frame: Frame

    def __format__(self, form: str) -> str:
        more = len(self.items) - int(form)
        after = self.frame.more.format(_Number(more)) if more > 0 else ""
        return self.frame.between.join(self.items[: int(form)]) + after
