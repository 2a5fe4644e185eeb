"""A push from beginning to end: a real browser, a real run, and between them a push service of the tests.

Firefox subscribes and decrypts, and its service worker is the one in docs/. What stands in for the world: autopush.py
for Mozilla's push service, and for the user's hand a mouse that WebDriver moves onto the notification's own window,
presses and releases there. From that on all is Firefox: it finds what lies under the mouse, tells the notification, and
wakes the service worker, which alone has a reason to open a page.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from attrs import evolve, frozen

from notifierd.demo.servers.http11 import Answer, Request, serve_connection
from notifierd.send.vapid import Vapid
from tests.support.faults import Seen, once
from tests.support.loopback import serving
from tests.support.processes import DAY, PATIENCE, VAPID_KEY, Place, an_id, invent
from tests.system.autopush import DELIVERED, Autopush, running_autopush
from tests.system.firefox import Firefox, running_firefox

DOCS = Path(__file__).parents[2] / "docs"
NEXT_DAY = DAY + timedelta(days=1)

OFFICE = str(an_id("o0"))
TITLE, TEXT = "期限アラート（事業所 o0）", "更新期限: 1件、アセスメント未完了: 1件"

PAGE = b"""<!doctype html><title>keikakun</title>
<script type="module">import * as push from "/subscribe.js"; window.push = push;</script>"""


@frozen
class Device:
    """A browser that has subscribed, with its row in the application's database.

    Attributes:
        application: the application's origin.
    """

    firefox: Firefox
    autopush: Autopush
    application: str


@asynccontextmanager
async def subscribed_device(place: Place, folder: Path) -> AsyncIterator[Device]:
    """Have the one member of staff of the one office subscribe, as a user does."""
    rows = invent(1, staff=1, push_url="the browser's")
    place.load(evolve(rows, devices=()))
    async with (
        running_autopush() as autopush,
        serving(partial(serve_connection, handle=application)) as port,
        running_firefox(folder / "firefox", autopush.browser_url, 3 * PATIENCE) as firefox,
    ):
        device = Device(firefox, autopush, f"http://127.0.0.1:{port}")
        await autopush.hello.wait()
        await firefox.visit(device.application)
        public_key = Vapid(VAPID_KEY, "").public_key
        row = await firefox.script("return push.subscribe(arguments[0]);", public_key)
        values = f"'{rows.staff[0].id}', '{row['endpoint']}', '{row['p256dh']}', '{row['auth']}'"
        place.sql(f"insert into push_subscriptions (staff_id, endpoint, p256dh_key, auth_key) values ({values})")
        yield device


async def application(request: Request) -> Answer:
    """Serve the scripts of docs/, and one page under every other address."""
    script = DOCS / request.path.removeprefix("/")
    if script.suffix == ".js":
        return Answer(200, script.read_bytes(), {"content-type": "text/javascript"})
    return Answer(200, PAGE, {"content-type": "text/html"})


async def run(place: Place, day: date = DAY) -> Seen:
    """Run *day*; what cannot be sent has expired soon."""
    return await once(place, "--day", str(day), "--for", "30")


async def test_a_push_is_on_show_and_a_click_brings_up_the_offices_page(place: Place, tmp_path: Path) -> None:
    async with subscribed_device(place, tmp_path) as device:
        firefox, page = device.firefox, f"{device.application}/?office={OFFICE}"
        await firefox.visit("about:blank")  # no page of the application is open

        assert (await run(place)).ledger == {"sent": 1, "push sent": 1}
        (message,) = device.autopush.accepted
        await message.acknowledged.wait()
        assert message.code == DELIVERED
        assert (message.head.urgency, len(message.head.topic)) == ("normal", 32)
        assert await firefox.alert() == (TITLE, TEXT)

        await firefox.visit(device.application)
        shown = await firefox.script(
            "return navigator.serviceWorker.ready.then((worker) => worker.getNotifications()).then((all) => all.map("
            "({ title, body, tag, icon, data }) => ({ title, body, tag, icon, data })));"
        )
        assert shown == [
            {
                "title": TITLE,
                "body": TEXT,
                "tag": f"deadline_alert-{OFFICE}",
                "icon": f"{device.application}/icon-192.png",
                "data": {
                    "type": "deadline_alert",
                    "office_id": OFFICE,
                    "office_name": "事業所 o0",
                    "renewal_count": 1,
                    "assessment_count": 1,
                    "push_threshold_days": 10,
                },
            }
        ]
        await firefox.visit("about:blank")

        await firefox.alert()
        await firefox.click("#alertTextLabel")
        assert await firefox.tabs_once_in_front(page) == ["about:blank", page]

        await firefox.visit("about:blank")  # in the first tab, which is in front of the page now
        await run(place, NEXT_DAY)
        assert await firefox.alert() == (TITLE, TEXT)
        await firefox.click("#alertTextLabel")
        assert await firefox.tabs_once_in_front(page) == ["about:blank", page]  # the one that was open


async def test_a_browser_that_unsubscribed_is_gone_at_the_next_run(place: Place, tmp_path: Path) -> None:
    async with subscribed_device(place, tmp_path) as device:
        assert (await run(place)).ledger == {"sent": 1, "push sent": 1}
        await device.firefox.script("return push.unsubscribe();")
        seen = await run(place, NEXT_DAY)
        assert seen.ledger == {"sent": 2, "push sent": 1, "push gone because of gone:410": 1}
        assert (seen.code, seen.report["push"]["gone"]) == (0, 1)
        assert len(device.autopush.accepted) == 1
        assert place.sql("select count(*) from push_subscriptions") == "0"
