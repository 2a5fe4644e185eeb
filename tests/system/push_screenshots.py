"""A push as Firefox shows it, for docs/message.md. Needs firefox-esr, fonts-noto-cjk and pngquant.

The push goes the whole way: the browser subscribes, notifierd encrypts and sends, the browser decrypts, and the service
worker of docs/ shows the notification, in a window of Firefox's own.
"""

import base64
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import trio
from attrs import evolve

from notifierd.config.settings import ContentSettings, PushSettings, Settings
from notifierd.demo.servers.http11 import serve_connection
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.office import Alert, Device, Notice
from notifierd.model.outcome import Delivered
from notifierd.send.open import open_push
from notifierd.send.vapid import Vapid
from tests.support.loopback import serving
from tests.support.processes import PATIENCE, VAPID_KEY
from tests.support.samples import DAY, a_renewal, a_staff, an_assessment, an_id
from tests.support.screenshots import IMAGES
from tests.system.autopush import running_autopush
from tests.system.firefox import Firefox, running_firefox
from tests.system.test_browser_push import application

Language = Literal["ja", "en"]
OFFICES: dict[Language, str] = {"ja": "ひだまり作業所", "en": "Sunny Place Workshop"}

NAME_THE_APPLICATION = "document.getElementById('alertSourceLabel').setAttribute('value', 'via app.example.jp');"
"""The browser shows the address of the application, which here has another port each time."""


def settings_for(language: Language) -> Settings:
    push = PushSettings(
        vapid_private_key=VAPID_KEY,
        subject="mailto:ops@example.jp",
        allowed_hosts=("127.0.0.1",),
        allow_private_addresses=True,
    )
    return Settings(push=push, content=ContentSettings(language=language))


def alerts() -> Iterator[Alert]:
    """Five renewals, and three assessments that are missing."""
    yield from (a_renewal(left) for left in (-2, 0, 3, 7, 9))
    yield from (an_assessment() for _ in range(3))


async def picture(firefox: Firefox, device: Device, language: Language) -> bytes:
    """Send a push to *device*; return what the browser shows, as a PNG."""
    settings, staff = settings_for(language), a_staff("misaki")
    notice = Notice(DAY, an_id(language), OFFICES[language], staff, Channel.PUSH, tuple(alerts()))
    delivery = Delivery(an_id(f"push {language}"), notice.office_id, staff.id, Channel.PUSH)
    push = Renderer(settings).push(notice, delivery, evolve(device, staff_id=staff.id), ttl=60)
    async with open_push(settings, now=lambda: datetime.now(UTC)) as sender:
        assert await sender.send([push], sender.encode([push]), "") == [Delivered()]
    await firefox.alert()
    await firefox.script(NAME_THE_APPLICATION)
    return base64.b64decode(await firefox.screenshot())


async def take(folder: Path, language: Language) -> bytes:
    """A browser that subscribes, and the picture of one push."""
    async with (
        running_autopush() as autopush,
        serving(partial(serve_connection, handle=application)) as port,
        running_firefox(folder / language, autopush.browser_url, 3 * PATIENCE) as firefox,
    ):
        await autopush.hello.wait()
        await firefox.visit(f"http://127.0.0.1:{port}")
        row = await firefox.script("return push.subscribe(arguments[0]);", Vapid(VAPID_KEY, "").public_key)
        await firefox.visit("about:blank")
        device = Device(an_id("device"), an_id("staff"), row["endpoint"], row["p256dh"], row["auth"])
        return await picture(firefox, device, language)


def main() -> None:
    with TemporaryDirectory() as folder:
        for language in OFFICES:
            file = IMAGES / f"push-{language}.png"
            file.write_bytes(trio.run(take, Path(folder), language))
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--strip", "64", file], check=True)
            sys.stdout.write(f"{file}: {file.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    main()
