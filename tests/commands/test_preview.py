"""``notifierd preview``, as a process: the messages that a run then sends, in files that only their maker can read."""

import json
import re
import stat
from collections.abc import Iterable
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from notifierd.commands.preview import INDEX, MARK
from notifierd.demo.sample import sample
from tests.support.processes import DAY, Done, Place, an_id, invent, run

pytestmark = pytest.mark.usefixtures("_forked_commands")

POISON = '{% if office == "事業所 o1" %}{{ office.no_such_thing }}{% endif %}期限のお知らせ'


def preview(place: Place, *args: str, out: Path | None = None, code: int = 0) -> Done:
    """Preview DAY into the place's folder ``preview``."""
    where = str(out or place.folder / "preview")
    return run("preview", "--day", str(DAY), "--out", where, *args, cwd=place.folder, code=code)


@define
class Index(HTMLParser):
    """What a browser finds in the index: its links, its text, and whatever it would load."""

    links: list[str] = field(factory=list)
    loaded: list[str] = field(factory=list)
    text: str = ""

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self.links.append(given["href"] or "")
        self.loaded += [given[name] or "" for name in ("src", "srcset") if name in given]
        self.loaded += [given["href"] or ""] if tag == "link" else []

    def handle_data(self, data: str) -> None:
        self.text += data


def index_of(folder: Path) -> Index:
    found = Index()
    found.feed((folder / INDEX).read_text(encoding="utf-8"))
    return found


def mail_of(path: Path) -> tuple[str, str, str, str]:
    """A mail's address, subject, text and HTML."""
    mail = message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=policy.default)
    parts = [part.get_content() for part in mail.iter_parts() if isinstance(part, EmailMessage)]
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    return mail["To"], mail["Subject"], *(content.replace("\r\n", "\n") for content in parts)


def pushes_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/*.json")]


def payloads(found: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(payload, sort_keys=True) for payload in found)


def test_what_is_previewed_is_what_the_run_then_sends(place: Place) -> None:
    """Mail for mail with subject and text, push for push with its payload; nothing is sent or written before."""
    invented = sample(12, DAY, place.servers.push_url)
    place.load(invented.rows)
    place.serve(invented.rows, keep_eml=True)
    before, calls = place.content(), place.calls()
    done = preview(place)
    assert (place.content(), place.calls()) == (before, calls)
    folder, due = place.folder / "preview", invented.expected()
    assert done.out == (
        f"{len(due.mails) + len(due.pushes)} messages to the staff of "
        f"{len(list(folder.glob('*/')))} offices: {folder / INDEX}\n"
    )
    shown = sorted(map(mail_of, folder.glob("*/*.eml")))
    for _, _, text, html in shown:
        assert text in {path.read_text(encoding="utf-8") for path in folder.glob("*/*.txt")}
        assert html in {path.read_text(encoding="utf-8") for path in folder.glob("*/*.html")}

    place.once()
    mails = place.servers.out / "mails"
    assert sorted(mail_of(mails / f"{mail.number:04}.eml") for mail in place.mails()) == shown
    assert len(shown) == len(due.mails)
    assert payloads(push.payload for push in place.pushes()) == payloads(push["payload"] for push in pushes_in(folder))
    assert {push.topic for push in place.pushes()} == {push["topic"] for push in pushes_in(folder)}


def test_every_message_of_500_offices_can_be_reached_from_the_index_without_a_network(place: Place) -> None:
    place.load(invent(500, staff=10, recipients=3))
    preview(place)
    folder = place.folder / "preview"
    index = index_of(folder)
    assert len(list(folder.glob("*/*.html"))) == 5000
    assert len(index.links) == len(set(index.links)) == 3 * 5000
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(index.links) == files - {INDEX, MARK}
    assert index.loaded == []
    assert "Messages: 5000; offices: 500" in index.text
    for office in (0, 499):
        assert f"事業所 o{office} {an_id(f'o{office}')}" in index.text
        assert f"職員 o{office}s9" in index.text
    page = (folder / INDEX).read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)


def test_names_are_shown_as_they_are_and_never_as_markup(place: Place) -> None:
    invented = sample(12, DAY, place.servers.push_url)
    place.load(invented.rows)
    preview(place)
    odd = next(office.name for office in invented.rows.offices if "<" in office.name)
    assert odd in index_of(place.folder / "preview").text


def test_only_its_maker_can_read_it(place: Place) -> None:
    place.load(invent(2))
    place.folder.joinpath("preview").mkdir(mode=0o755)
    preview(place)
    folder = place.folder / "preview"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_push_is_shown_without_the_endpoint_that_whoever_has_it_can_push_to(place: Place) -> None:
    place.load(invent(1, push_url=place.servers.push_url))
    preview(place)
    pushes = pushes_in(place.folder / "preview")
    assert {frozenset(push) for push in pushes} == {frozenset({"device_id", "ttl", "topic", "urgency", "payload"})}
    assert {push["device_id"] for push in pushes} == {str(an_id("token-o0s0")), str(an_id("token-o0s1"))}
    said = "".join(path.read_text(encoding="utf-8") for path in (place.folder / "preview").rglob("*.*"))
    assert "/push/token" not in said


def test_one_office_alone(place: Place) -> None:
    place.load(invent(3))
    assert preview(place, "--office", str(an_id("o1"))).out.startswith("2 messages to the staff of 1 office")
    assert {path.name for path in (place.folder / "preview").glob("*/")} == {str(an_id("o1"))}
    assert preview(place, "--office", str(an_id("nowhere"))).out.startswith("0 messages to the staff of 0 offices")
    assert "nothing is due" in index_of(place.folder / "preview").text


def test_another_preview_replaces_the_first_and_touches_nothing_else(place: Place) -> None:
    place.load(invent(3))
    preview(place)
    folder = place.folder / "preview"
    (folder / "notes.txt").write_text("mine")
    (folder / "more").mkdir()
    preview(place, "--office", str(an_id("o2")))
    assert {path.name for path in folder.iterdir()} == {INDEX, MARK, "notes.txt", "more", str(an_id("o2"))}


def test_a_folder_that_no_preview_made_is_refused_and_left_alone(place: Place) -> None:
    place.load(invent(1))
    folder = place.folder / "mine"
    (folder / str(an_id("o0"))).mkdir(parents=True)
    (folder / INDEX).write_text("mine")
    done = preview(place, out=folder, code=2)
    assert done.err == (
        f"notifierd: --out: {folder} is not empty, and no preview made it: name a new folder, or an empty one\n"
    )
    assert (folder / INDEX).read_text() == "mine"
    done = preview(place, out=Path("/proc/nowhere"), code=2)
    assert done.err.startswith("notifierd: --out: /proc/nowhere: No such file or directory; name a folder")
    assert "is a file" in preview(place, out=place.folder / "config.toml", code=2).err


def test_a_database_that_is_away_costs_no_earlier_preview(place: Place) -> None:
    place.load(invent(1))
    preview(place)
    there = set((place.folder / "preview").rglob("*"))
    place.configure(database={"dsn": f"postgresql://me@/nowhere?host={place.folder}"})
    assert preview(place, code=3).err.startswith("notifierd: the database is unreachable")
    assert set((place.folder / "preview").rglob("*")) == there


def test_an_office_whose_messages_cannot_be_made_is_named_and_the_others_are_shown(place: Place) -> None:
    place.load(invent(3))
    (place.folder / "mail.ja.subject.txt").write_text(POISON, encoding="utf-8")
    place.configure(content={"templates": "."})
    done = preview(place, code=1)
    assert done.out.startswith("4 messages")
    assert done.err == f"notifierd: office {an_id('o1')}: its messages cannot be rendered (UndefinedError)\n"
    assert "This office's messages cannot be made: UndefinedError." in index_of(place.folder / "preview").text


def test_it_needs_no_keys(place: Place) -> None:
    """Before there is an account with a provider, or a VAPID key."""
    place.load(invent(1, push_url=place.servers.push_url))
    place.configure(**{"email.resend": {"api_key": ""}, "push": {"vapid_private_key": ""}, "email": {"sender": ""}})
    assert preview(place).out.startswith("4 messages")
