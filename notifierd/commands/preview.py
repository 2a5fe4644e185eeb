"""``notifierd preview``: the messages that a run would send now, as files. Sends nothing, writes no row."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

import jinja2
import trio
from attrs import define, evolve, field, frozen
from rich.console import Console

from notifierd.commands.display.bars import bar
from notifierd.commands.plan import Unreadable, works
from notifierd.config.settings import Settings
from notifierd.messages.render import Renderer
from notifierd.messages.text import clean
from notifierd.model.address import BadAddress
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.errors import ConfigError
from notifierd.model.message import Push
from notifierd.model.office import Notice, OfficeWork
from notifierd.rules.calendar import Calendar
from notifierd.rules.due import Rules, notice_for
from notifierd.run.calls import SHORTEST_TTL
from notifierd.send.mail.mime import dated, undated
from notifierd.service.site import open_site

MARK = ".notifierd-preview"
"""Marks a folder that a preview made, and that another preview may replace."""

INDEX = "index.html"


@frozen
class PreviewedMessage:
    """One message in the index. Paths are relative to the index.

    Attributes:
        files: what each file is, and its path.
    """

    staff_id: UUID
    name: str
    to: str
    title: str
    files: dict[str, str]


@define
class PreviewedOffice:
    """One office in the index.

    Attributes:
        error: why its messages could not be rendered.
    """

    id: UUID
    name: str
    messages: list[PreviewedMessage] = field(factory=list)
    error: str = ""


@frozen
class Wanted:
    """The command line's options: the messages of all offices or of one, in the folder *out*."""

    day: date
    out: Path
    office_id: UUID | None = None


@frozen
class Preview:
    """The result of a preview."""

    day: date
    folder: Path
    offices: tuple[PreviewedOffice, ...]

    @property
    def messages(self) -> int:
        """The number of messages."""
        return sum(len(office.messages) for office in self.offices)

    @property
    def poisoned(self) -> tuple[PreviewedOffice, ...]:
        """The offices whose messages cannot be rendered."""
        return tuple(office for office in self.offices if office.error)


async def preview(settings: Settings, wanted: Wanted, now: datetime, console: Console) -> Preview:
    """Render what a run would send at *now* into a folder.

    Raises:
        ConfigError: the folder or a template cannot be used; or see `open_site`.
        SchemaMissing: see `open_site`.
        LedgerUnavailable: the database could not be reached.
    """
    day, out = wanted.day, wanted.out
    ttl = max(SHORTEST_TTL, int((Calendar(settings.window).day_ends(day) - now).total_seconds()))
    maker = _Maker(settings, Renderer(settings), day, ttl, out, now)
    offices: list[PreviewedOffice] = []
    with _private(out), bar(console) as offices_done:
        async with open_site(settings, read_only=True) as site:
            deliveries = await site.ledger.list_due(day, Rules.of(settings))
            if wanted.office_id:
                deliveries = {key: those for key, those in deliveries.items() if key == wanted.office_id}
            _make_empty(out)
            task = offices_done.add_task("offices", total=len(deliveries))
            async for work in works(site, day, deliveries):
                offices.append(maker.office(work))
                offices_done.advance(task)
                await trio.lowlevel.checkpoint()  # where Ctrl-C is noticed
        found = Preview(day, out, tuple(office for office in offices if office.messages or office.error))
        (out / INDEX).write_text(_index(found), encoding="utf-8")
    return found


@frozen
class _Maker:
    """Renders the files of one office after the other."""

    settings: Settings
    renderer: Renderer
    day: date
    ttl: int
    out: Path
    now: datetime

    def office(self, work: OfficeWork | Unreadable) -> PreviewedOffice:
        """Render one office; its error does not affect other offices, as in a run."""
        if isinstance(work, Unreadable):
            return PreviewedOffice(work.office_id, "", error=work.reason)
        shown = PreviewedOffice(work.id, clean(work.name or ""))
        rules = Rules.of(self.settings)
        try:
            for delivery in work.deliveries:
                notice = notice_for(delivery, work, self.day, rules)
                if isinstance(notice, Notice):
                    shown.messages.append(self._message(notice, delivery, work))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            return evolve(shown, error=type(error).__name__)
        return shown

    def _message(self, notice: Notice, delivery: Delivery, work: OfficeWork) -> PreviewedMessage:
        folder = self.out / str(work.id)
        folder.mkdir(exist_ok=True)
        shown = PreviewedMessage(notice.staff.id, clean(notice.staff.name), "", "", {})
        if delivery.device_id is None:
            try:
                mail = self.renderer.mail(notice, delivery)
            except BadAddress as bad:
                return evolve(shown, title=f"cannot be sent: {bad.reason}")
            parts = {"html": mail.html.encode(), "txt": mail.text.encode(), "eml": dated(undated(mail), self.now)}
            files = {
                kind: self._write(folder / f"{notice.staff.id}.{kind}", content) for kind, content in parts.items()
            }
            return evolve(shown, to=clean(mail.to), title=mail.subject, files=files)
        push = self.renderer.push(notice, delivery, work.devices[delivery.device_id], self.ttl)
        path = self._write(folder / f"{notice.staff.id}.{delivery.device_id}.json", _push_json(push))
        return evolve(shown, to=f"{Channel.PUSH} {delivery.device_id}", title=_title(push), files={"json": path})

    def _write(self, path: Path, content: bytes) -> str:
        path.write_bytes(content)
        return path.relative_to(self.out).as_posix()


def _push_json(push: Push) -> bytes:
    """Return the push as JSON, without the endpoint: whoever knows it can push."""
    about = {"device_id": str(push.device.id), "ttl": push.ttl, "topic": push.topic, "urgency": push.urgency}
    return json.dumps(about | {"payload": json.loads(push.payload)}, ensure_ascii=False, indent=2).encode()


def _title(push: Push) -> str:
    return str(json.loads(push.payload)["title"])


def _index(found: Preview) -> str:
    shipped = jinja2.Environment(
        loader=jinja2.PackageLoader("notifierd.messages", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return shipped.get_template("preview.html").render(preview=found)


# The folder ----------------------------------------------------------------------------------------------------------


@contextmanager
def _private(out: Path) -> Iterator[None]:
    """Make all files that are created in the block private to the user; report *out* as unusable if that fails."""
    before = os.umask(0o077)
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise ConfigError((f"--out: {where}: {error.strerror}; name a folder that you may write to",)) from error
    finally:
        os.umask(before)


def _make_empty(out: Path) -> None:
    """Make *out* an empty folder with the mark of a preview; remove the files of an earlier preview.

    Raises:
        ConfigError: something else is in it.
    """
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = {path.name for path in out.iterdir()}
    if there and MARK not in there:
        problem = f"--out: {out} is not empty, and no preview made it: name a new folder, or an empty one"
        raise ConfigError((problem,))
    out.chmod(0o700)
    (out / MARK).touch()
    for name in there - {MARK}:
        if name == INDEX:
            (out / name).unlink()
        elif _is_office(name):
            shutil.rmtree(out / name)


def _is_office(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
