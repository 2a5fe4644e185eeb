"""How Sphinx builds the manual: ``make docs``. What is wrong ends the build, whatever else is right."""

import re
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

from notifierd import __version__

project = "notifierd"
author = "the notifierd authors"
release = version = __version__
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"notifierd {release}"
html_show_copyright = False
html_copy_source = False
html_use_index = False

LOADS = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href", "use": "href"}
"""Elements by which a page has a browser fetch something by itself, and the attribute that says what."""


class _Requests(HTMLParser):
    """Notes what a browser would ask another host for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        url = dict(attrs).get(LOADS.get(tag, "")) or ""
        if re.match(r"(https?:)?//", url):
            self.found.append(f"<{tag}> {url}")


def refuse_outside_requests(app: Sphinx, error: Exception | None) -> None:
    """Whoever reads the manual asks no other host for anything: no font, no script, no picture."""
    if error:
        return
    found = []
    for page in Path(app.outdir).rglob("*.html"):
        requests = _Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.name}: {request}" for request in requests.found]
    for sheet in Path(app.outdir).rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.name}: {url}" for url in urls]
    if found:
        raise SphinxError("The manual would ask other hosts:\n" + "\n".join(found))


def setup(app: Sphinx) -> None:
    """Hook the check in."""
    app.connect("build-finished", refuse_outside_requests)
