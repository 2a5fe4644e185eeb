"""Every reason that the code gives is a member of `Reason`, every member is given, and each has its words."""

import ast
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from notifierd.model.reasons import Reason
from notifierd.web.words.language import Words

PACKAGE = Path(__file__).parents[2] / "notifierd"
SOURCES = {
    file: ast.parse(file.read_text(encoding="utf-8"))
    for file in PACKAGE.rglob("*.py")
    if file != PACKAGE / "model" / "reasons.py"
}

GIVERS = {
    *("Rejected", "Deferred", "Blocked", "Unknown", "Gone", "BadAddress", "Skip", "Undeliverable"),
    *("LedgerUnavailable", "StatementRefused"),
}
"""What carries a reason as its first argument."""


def calls(source: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in GIVERS and node.args:
            yield node


def test_no_reason_is_spelt_out_where_it_is_given():
    spelt = [
        f"{file.relative_to(PACKAGE)}:{call.lineno}"
        for file, source in SOURCES.items()
        for call in calls(source)
        if isinstance(call.args[0], ast.JoinedStr | ast.Constant)
    ]
    assert spelt == []
    assert sum(1 for source in SOURCES.values() for _ in calls(source)) > len(GIVERS)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_given_somewhere(reason: Reason):
    names = {
        node.attr
        for source in SOURCES.values()
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    literals = {
        node.value for source in SOURCES.values() for node in ast.walk(source) if isinstance(node, ast.Constant)
    }
    assert reason.name in names or reason.value in literals


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_in_both_languages(reason: Reason):
    assert reason.japanese
    assert reason.english
    assert Words("ja", ZoneInfo("UTC")).why(reason) == reason.japanese
    assert Words("en", ZoneInfo("UTC")).why(reason) == reason.english


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rejected:422", Reason.REJECTED),
        ("rejected:item:406", Reason.REJECTED),
        ("window_ended (rate_limited:429)", Reason.WINDOW_ENDED),
        ("window_ended_in_doubt", Reason.WINDOW_ENDED_IN_DOUBT),
        ("batch_rejected:422", Reason.BATCH),
        ("token_connection_failed", Reason.TOKEN),
        ("holiday: 元日", Reason.HOLIDAY),
        ("", None),
        ("a word of tomorrow", None),
    ],
)
def test_a_reason_is_found_by_the_code_alone_or_by_its_prefix(text: str, reason: Reason | None):
    assert Reason.explaining(text) is reason
    assert Words("en", ZoneInfo("UTC")).why(text) == (reason.english if reason else "")
    assert [each for each in Reason if each.begins(text)] == ([reason] if reason else [])


def test_details_follow_a_colon_and_prefixes_stand_before_a_reason():
    assert Reason.REJECTED.of("item", 406) == "rejected:item:406"
    assert Reason.QUOTA.of() == "quota"
    assert Reason.BATCH.before(Reason.REJECTED.of(422)) == "batch_rejected:422"
    assert f"{Reason.TOO_EARLY}" == "too_early"
