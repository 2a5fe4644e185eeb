"""Each reason that the code can give has its words on the page, and none has words that cannot be given."""

import ast
from collections.abc import Iterator
from pathlib import Path

from notifierd.config.settings import WindowSettings
from notifierd.model.outcome import BATCH
from notifierd.send import webpush
from notifierd.send._network import REFUSED
from notifierd.send.mail import ses
from notifierd.web.words.language import Words
from notifierd.web.words.reasons import REASONS

SOURCES = {
    file: file.read_text(encoding="utf-8")
    for file in (Path(__file__).parents[2] / "notifierd").rglob("*.py")
    if file.name != "reasons.py"
}

GIVERS = {"Rejected", "Deferred", "Blocked", "Unknown", "Gone", "HostUnfit", "BadAddress"}

EXPRESSIONS = {
    "REFUSED": {REFUSED},
    "BATCH": {BATCH},
    "fate": webpush.WNS_LOST,
    "REFUSALS[kind]": set(ses.REFUSALS.values()),
    "ENTRY_REFUSALS[status]": set(ses.ENTRY_REFUSALS.values()),
    "delivery.reason or 'process_died'": {"process_died"},
    "outcome.reason.replace('blocked', 'device_refused')": {"device_refused"},
    "error.__cause__.args[0]": set(),  # a HostUnfit's
}
"""What a reason begins with where that is no literal, and what it may be."""

OTHERS = {
    *("no_longer_due", "device_gone", "staff_gone", "office_gone", "channel_disabled", "office_error"),
    *("window_ended", "window_ended_in_doubt", "signal", "retried", "never_resumed", "slept_through", "not_running"),
    "run_died",
    *("closed_dates", "weekend", "weekday", "holiday", "database_unavailable", "database_refused"),
}
"""Those of what is never sent, of an office, and of a day: no outcome has them."""


def given() -> Iterator[str]:
    """The first word of every reason that the code makes; one that is put before another's ends in ``_``."""
    for source in SOURCES.values():
        for call in ast.walk(ast.parse(source)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in GIVERS and call.args:
                match call.args[0]:
                    case ast.Constant(value=str(text)) | ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
                        yield text.partition(":")[0]
                    case ast.JoinedStr(values=[ast.FormattedValue(value=expression), *_]) | expression:
                        yield from EXPRESSIONS[ast.unparse(expression)]


def test_every_reason_of_the_code_has_words_and_no_other():
    everything = "".join(SOURCES.values())
    assert [word for word in OTHERS - {"window_ended_in_doubt"} if word not in everything] == []  # made of two words
    assert {"token_" if code.startswith("token_") else code for code in given()} | OTHERS == set(REASONS)


def test_words_are_found_by_the_code_alone_or_by_its_beginning():
    words = Words("en", WindowSettings().zone)
    assert words.why("rejected:422") == REASONS["rejected"][1]
    assert words.why("window_ended (rate_limited:429)") == REASONS["window_ended"][1]
    assert words.why("batch_rejected:422") == REASONS["batch_"][1]
    assert words.why("token_connection_failed") == REASONS["token_"][1]
    assert words.why("") == words.why("a word of tomorrow") == ""
