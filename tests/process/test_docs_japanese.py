"""The Japanese pages have what the English ones have, and are written as Japanese is."""

import re
from collections.abc import Iterator, Sequence

import pytest

from tests.support.manual import REPOSITORY, blocks, pages

JAPANESE = [page for page in pages() if page.endswith(".ja.md")]


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    return text_of(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def events(part: str) -> Sequence[str]:
    return re.findall(r"(?m)^### ([a-z_]+)$", part)


def rows(part: str) -> Sequence[str]:
    """The first cells of tables whose first cells are code."""
    return re.findall(r"(?m)^\| `([^`]+)` \|", part)


def test_every_alarm_has_its_section_in_japanese_in_the_same_order():
    english, japanese = (
        section("docs/operations.md", "When an alarm rings"),
        section("docs/operations.ja.md", "ログのイベント"),
    )
    found = events(english)
    assert found == events(japanese)
    assert len(found) > 20
    assert rows(english) == rows(japanese)


def test_every_cause_and_every_format_has_its_row_in_japanese():
    english, japanese = (
        section("docs/operations.md", "Who is told"),
        section("docs/operations.ja.md", "通知の受け取り方"),
    )
    assert rows(english) == rows(japanese)
    assert english.count("\n### ") == japanese.count("\n### ")


@pytest.mark.parametrize("page", ["operations", "getting-started"])
def test_what_is_code_in_a_page_is_the_same_in_japanese(page: str):
    """Commands, keys, events and paths of each section, whatever the order of the words."""
    english, japanese = text_of(f"docs/{page}.md"), text_of(f"docs/{page}.ja.md")
    if page == "operations":
        english = english.partition("\n## When an alarm rings\n")[2]
        japanese = japanese.partition("\n## ログのイベント\n")[2]
    here, there = (re.split(r"(?m)^###? ", text) for text in (english, japanese))
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        assert set(code(one)) == set(code(other)), other.partition("\n")[0]


def code(text: str) -> Iterator[str]:
    plain = re.sub(r"(?ms)^```.*?^```$", "", text)
    return (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", plain))


@pytest.mark.parametrize("page", JAPANESE)
def test_no_line_of_a_japanese_page_ends_within_a_sentence(page: str):
    """A browser would show a gap there."""
    plain = re.sub(r"(?ms)^```.*?^```$", "", text_of(page))
    assert re.findall(r"(?m)^.+\n(?!- |\|).+$", plain) == [], "lines that go on with the one before"


@pytest.mark.parametrize("page", JAPANESE)
def test_a_link_of_a_japanese_page_leads_to_a_heading(page: str):
    folder = (REPOSITORY / page).parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text_of(page)):
        if not target.startswith("http"):
            found = (folder / target if target else REPOSITORY / page).read_text(encoding="utf-8")
            assert anchor in {anchor_of(heading) for heading in re.findall(r"(?m)^#+ (.*)$", found)}, anchor


def anchor_of(heading: str) -> str:
    """As GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_japanese_way_to_start_has_the_same_blocks():
    """So that the tests that follow the English page follow it, too."""
    english, japanese = (blocks(f"docs/getting-started{kind}.md") for kind in ("", ".ja"))
    assert [block[2:] for block in english] == [block[2:] for block in japanese]
