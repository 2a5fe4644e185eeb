"""The HTML mail as Chromium shows it, for docs/message.md. Needs chromium, fonts-noto-cjk and pngquant."""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

from attrs import define, evolve, field, frozen

from notifierd.config.settings import ContentSettings, EmailSettings, Settings
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.office import Alert, Notice
from tests.support.samples import DAY, a_renewal, a_staff, an_assessment, an_id

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PHONE, NARROW, WIDE = 360, 375, 800
PIXELS = 1.5
"""Of a picture, for each of the page's."""

PEOPLE = (
    "高橋 一郎",
    "佐々木 さくら",
    "𠮷野 健一",
    "山口 陽子",
    "林 誠",
    "中村 由美",
    "小林 大輔",
    "渡辺 直樹",
    "伊藤 恵",
    "斎藤 翔太",
)
LONG = "社会福祉法人 みなと見本市ひがし野青空町若葉台川風星見ヶ丘緑ヶ原花咲白樺夕凪春日坂障害者就労継続支援Ｂ型事業所"
UNBROKEN = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"

Scheme = Literal["light", "dark"]


@frozen
class Shot:
    """One picture."""

    name: str
    alerts: int = 12
    language: Literal["ja", "en"] = "ja"
    width: int = WIDE
    scheme: Scheme = "light"
    office: str = "ひだまり作業所"
    staff: str = "田中 美咲"
    people: tuple[str, ...] = PEOPLE
    dashboard_url: str = "https://app.example.jp/dashboard"
    news: tuple[int, ...] = ()


SHOTS = (
    Shot("mail-narrow-light", width=NARROW),
    Shot("mail-narrow-dark", width=NARROW, scheme="dark"),
    Shot("mail-wide-light"),
    Shot("mail-wide-dark", scheme="dark"),
    Shot("mail-english", language="en", width=NARROW),
    Shot("mail-news-japanese", alerts=4, width=PHONE, news=(-1, 0, 7)),
    Shot("mail-news-english", alerts=4, language="en", width=PHONE, news=(-1, 0, 7)),
)

ODD = (
    Shot("one", alerts=1),
    Shot("one-narrow", alerts=1, width=NARROW),
    Shot("sixty", alerts=60),
    Shot("five-hundred-narrow", alerts=500, width=NARROW),
    Shot(
        "long",
        office=LONG,
        staff=LONG,
        people=(LONG, UNBROKEN, "🌸" * 60, "مركز الرعاية النهارية 12 <b>"),
        width=NARROW,
    ),
    Shot("long-wide", office=LONG, staff=LONG, people=(LONG, UNBROKEN, "🌸" * 60), scheme="dark"),
    Shot("nameless", office="", staff="", people=("",), dashboard_url="", width=NARROW),
    Shot("english-wide", language="en"),
    Shot("tiny", width=320),
)
"""What is looked at, and not kept."""


def html_of(shot: Shot) -> str:
    """The mail of *shot*: a third of its alerts overdue, a fourth of them without an assessment."""
    content = ContentSettings(language=shot.language, product="けいかくん", dashboard_url=shot.dashboard_url)
    settings = Settings(email=EmailSettings(sender="no-reply@example.jp"), content=content)
    staff = evolve(a_staff("misaki"), name=shot.staff)
    news = tuple(evolve(a_renewal(left), recipient_name=shot.people[at]) for at, left in enumerate(shot.news))
    notice = Notice(DAY, an_id("office"), shot.office, staff, Channel.EMAIL, (*news, *alerts_of(shot)), news=news)
    return Renderer(settings).mail(notice, Delivery(an_id("mail"), notice.office_id, staff.id, Channel.EMAIL)).html


def alerts_of(shot: Shot) -> Iterator[Alert]:
    """From 13 days ago to 30 days ahead, in order; then those without a date."""
    missing = shot.alerts // 4
    dated = shot.alerts - missing
    for number in range(shot.alerts):
        name = shot.people[number % len(shot.people)]
        left = -13 + 43 * number // max(dated - 1, 1) if number else -13
        alert = a_renewal(left if left != 1 else 0) if number < dated else an_assessment()
        yield evolve(alert, recipient_name=name, cycle=1 + number % 3)


@define
class Chromium:
    """A headless one, spoken to in the DevTools protocol through its pipe, in messages that end with a NUL byte."""

    _process: subprocess.Popen[bytes]
    _ids: Iterator[int] = field(factory=lambda: count(1))
    _session: Mapping[str, str] = field(factory=dict)
    requests: list[str] = field(factory=list)
    """Every URL that a page asked for."""

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result; what else is told meanwhile passes."""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\0")
        self._process.stdin.flush()
        while (told := self._read()).get("id") != number:
            pass
        return told["result"]

    def wait_for(self, event: str) -> None:
        while self._read().get("method") != event:
            pass

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        message = bytearray()
        while not message.endswith(b"\0"):
            byte = self._process.stdout.read(1)
            assert byte, "Chromium is gone"
            message += byte
        told: dict[str, Any] = json.loads(message[:-1])
        if told.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["params"]["request"]["url"])
        return told

    def open(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        self.ask("Page.enable")
        self.ask("Network.enable")

    def picture(self, page: Path, width: int, scheme: Scheme) -> bytes:
        """The whole of *page* as a PNG."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        metrics = {"width": width, "deviceScaleFactor": PIXELS, "mobile": width < WIDE}
        self.ask("Emulation.setDeviceMetricsOverride", height=600, **metrics)
        self.ask("Page.navigate", url=page.as_uri())
        self.wait_for("Page.loadEventFired")
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        assert size["width"] == width, f"{page.name} is {size['width']} wide"
        self.ask("Emulation.setDeviceMetricsOverride", height=int(size["height"]), **metrics)
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


@contextmanager
def chromium(profile: Path) -> Iterator[Chromium]:
    options = ["--headless", "--remote-debugging-pipe", "--hide-scrollbars", f"--user-data-dir={profile}"]
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with subprocess.Popen(
        ["sh", "-c", 'exec "$@" 3<&0 4>&1 1>&2', "sh", "chromium", *options, *sandbox],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        browser = Chromium(process)
        browser.open()
        yield browser
        browser.ask("Browser.close")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.support.screenshots", description=__doc__)
    parser.add_argument("--odd", type=Path, metavar="DIR", help="show the odd ones instead, in DIR")
    arguments = parser.parse_args()
    out = arguments.odd or IMAGES
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder, "profile")) as browser:
        for shot in ODD if arguments.odd else SHOTS:
            page, picture = Path(folder, f"{shot.name}.html"), out / f"{shot.name}.png"
            page.write_text(html_of(shot), encoding="utf-8")
            picture.write_bytes(browser.picture(page, shot.width, shot.scheme))
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--strip", "64", picture], check=True)
            sys.stdout.write(f"{picture}: {picture.stat().st_size // 1000} kB\n")
        asked = {url for url in browser.requests if not url.startswith(f"file://{folder}/")}
        assert asked == set(), f"a mail asks for nothing, and this one did for {asked}"


if __name__ == "__main__":
    main()
