"""Pictures of the page for the docs: python -m tests.support.page_screenshots.

Of the real daemon with the sample application, in Debian's Chromium: a run in full flow, and a day that is over, at two
widths, light and dark; and mails that were lost after they were accepted.
"""

import sys
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.browser import NARROW, WIDE, Scheme, chromium, window
from tests.support.daemon_process import TODAY
from tests.support.pages import Scene, a_scene, await_that, tell
from tests.support.processes import running_place

IMAGES = Path(__file__).parents[2] / "docs" / "images"
HEIGHT = {WIDE: 900, NARROW: 844}


def take(
    browser: Browser, scene: Scene, name: str, path: str = "/", *, width: int, scheme: Scheme, language: str
) -> None:
    """Take one picture of what a window of a usual height shows."""
    with window(browser, scene.url, width=width, scheme=scheme, language=language) as look:
        look.page.set_viewport_size({"width": width, "height": HEIGHT[width]})
        look.go(path)
        if path == "/":
            expect(look.page.locator("#live")).to_be_visible()
        size = "wide" if width == WIDE else "narrow"
        look.page.screenshot(path=IMAGES / f"{name}-{size}-{scheme}.png")


def main() -> int:
    """Take them all."""
    IMAGES.mkdir(exist_ok=True)
    views: list[tuple[int, Scheme]] = [(width, scheme) for width in (WIDE, NARROW) for scheme in ("light", "dark")]
    with (
        running_place() as place,
        a_scene(place, latency_ms=200.0) as scene,
        chromium() as browser,
    ):
        scene.open_window()
        await_that(lambda: place.states()["sent"] > 100)
        for width, scheme in views:
            take(browser, scene, "run", width=width, scheme=scheme, language="en")
        await_that(scene.is_over)
        tell(place)
        for width, scheme in views:
            take(browser, scene, "page", width=width, scheme=scheme, language="ja")
        with window(browser, scene.url, width=WIDE, scheme="light", language="en") as look:
            look.go(f"/days/{TODAY}")
            look.page.locator("section[aria-labelledby=losses]").screenshot(path=IMAGES / "became-wide-light.png")
        take(browser, scene, "day", f"/days/{TODAY}", width=WIDE, scheme="light", language="en")
    return 0


if __name__ == "__main__":
    sys.exit(main())
