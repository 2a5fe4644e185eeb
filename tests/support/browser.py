"""Debian's Chromium, by playwright, and what it saw that no page of ours may cause."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from attrs import define, field
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

WIDE, NARROW = 1200, 390

Scheme = Literal["light", "dark"]


@define
class Window:
    """One browser window on the page at *origin*, with what went wrong in it.

    Attributes:
        expected: a pattern of what may go wrong, as it is what the test is about.
    """

    page: Page
    origin: str
    expected: str = "nothing"
    complaints: list[str] = field(factory=list)

    def go(self, path: str = "/") -> None:
        self.page.goto(self.origin + path)

    def text(self, selector: str) -> str:
        """What stands there, as a person reads it."""
        return " ".join(self.page.locator(selector).inner_text().split())

    def focused(self) -> str:
        """The tag and the text of what has the focus."""
        return str(
            self.page.evaluate("`${document.activeElement.tagName} ${document.activeElement.innerText}`")
        ).strip()

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text}")

    def watch(self, request: Request) -> None:
        if not request.url.startswith(f"{self.origin}/"):
            self.complaints.append(f"a request to {request.url}")

    def violations(self) -> list[str]:
        """What axe finds on the page."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    path = shutil.which("chromium")
    assert path, "no chromium: apt-get install chromium fonts-noto-cjk"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # tests may be root's
        yield browser
        browser.close()


@contextmanager
def window(
    browser: Browser, origin: str, *, language: str = "en", scheme: Scheme = "light", width: int = WIDE, **more: Any
) -> Iterator[Window]:
    """Open a window with cookies of its own. It may have nothing to complain of."""
    context = browser.new_context(
        locale=language, color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce", **more
    )
    made = Window(context.new_page(), origin)
    # Not the bound methods: playwright sets attributes on what they are bound to.
    made.page.on("console", lambda message: made.hear(message))  # noqa: PLW0108
    made.page.on("request", lambda request: made.watch(request))  # noqa: PLW0108
    made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
    yield made
    context.close()
    unexpected = [one for one in made.complaints if not re.search(made.expected, one)]
    assert not unexpected, unexpected
