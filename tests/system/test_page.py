"""The page in a real browser, before a real daemon: what a person sees, reads and does."""

import signal
import subprocess
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from playwright.sync_api import Browser, expect

from notifierd.web.words.language import Words
from tests.support.browser import NARROW, WIDE, Scheme, Window, chromium, window
from tests.support.daemon_process import TODAY
from tests.support.pages import BAD_DAY, LOST, TOKEN, Scene, a_scene, await_that
from tests.support.processes import Place
from tests.system.programs import installed

VNU = "26.9.27"

expect.set_options(timeout=30_000)

LAYOUT_SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shifted += one.value; })
    .observe({type: "layout-shift", buffered: false});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def scene(place: Place) -> Iterator[Scene]:
    with a_scene(place) as made:
        yield made


def complaints(pages: list[Path]) -> list[str]:
    """What vnu finds in them."""
    jar = installed("vnu-jar", VNU) / "node_modules/vnu-jar/build/dist/vnu.jar"
    command = ["java", "-jar", str(jar), "--format=gnu", *map(str, pages)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300).stderr.splitlines()


def after_the_run(scene: Scene) -> None:
    scene.open_window()
    await_that(scene.is_over)


def en(day: date) -> str:
    return Words("en", ZoneInfo("UTC")).day(day)


def test_a_run_is_seen_live_from_the_first_office_to_the_last(browser: Browser, scene: Scene):
    """In one page that is never loaded again."""
    seen, shifted = [], 0.0
    with window(browser, scene.url) as look:
        look.go()
        headline = look.page.locator("h1")
        expect(headline).to_have_text("Waiting for the next window")
        expect(look.page.locator("#live")).to_be_visible()
        look.page.evaluate("window.never_left = true")
        scene.open_window()
        expect(headline).to_have_text(f"Running {en(TODAY)}")
        bar = look.page.locator("#bar-offices")
        total = int(bar.get_attribute("max") or 0)
        look.page.evaluate(LAYOUT_SHIFTS)
        while (now := look.page.evaluate("[document.getElementById('bar-offices')?.value, window.shifted]"))[
            0
        ] is not None:
            seen.append(now[0])
            shifted = now[1]
            look.page.wait_for_timeout(50)
        expect(headline).to_have_text("Waiting for the next window")
        expect(look.page.locator("#live")).to_be_visible()
        figures = look.text(".figures")
        assert look.page.evaluate("window.never_left")
    assert seen == sorted(seen)
    assert seen[0] <= 6
    assert seen[-1] >= total - 6
    assert len(set(seen)) >= 5
    assert shifted < 0.01
    sent = dict(
        line.split("|")
        for line in scene.place.sql(
            f"select channel, count(*) from notifierd.deliveries where day = '{TODAY}' and state = 'sent' group by 1"
        ).splitlines()
    )
    assert figures.startswith(f"{sent['email']} mails sent {sent['push']} pushes sent 7 Not delivered")


def test_a_failure_is_found_and_understood(browser: Browser, scene: Scene):
    after_the_run(scene)
    (name,) = (one.name for one in scene.sample.rows.offices if one.id == scene.sample.poisoned_office)
    with window(browser, scene.url) as look:
        look.go()
        look.page.get_by_role("link", name="Not delivered", exact=True).click()
        reasons = look.page.locator("table.reasons tbody tr")
        expect(reasons.first).to_contain_text("The log event office_failed says where.")
        look.page.get_by_role("link", name="office_error:UndefinedError").click()
        rows = look.page.locator("#list ~ table tbody tr")
        expect(rows).to_have_count(6)
        assert all(name in text and "office_error:UndefinedError" in text for text in rows.all_inner_texts())
        rows.first.get_by_role("link").click()
        expect(look.page.locator("h1")).to_have_text(name)
        expect(look.page.locator(".meanings")).to_contain_text("a template has an error")
        assert look.page.locator("section:last-of-type tbody tr").count() == 6

        look.go("/?reason=rejected:item")
        expect(rows).to_have_count(1)
        expect(look.page.locator("#filter-reason")).to_have_value("rejected:item")
        look.page.get_by_role("link", name="Show all").click()
        expect(rows).to_have_count(7)


def test_who_was_told_nothing_is_named_the_overdue_first(browser: Browser, scene: Scene):
    after_the_run(scene)
    with window(browser, scene.url) as look:
        look.go()
        rows = look.page.locator("section[aria-labelledby=untold] tbody tr")
        overdue = [int(row.split("\t")[1]) for row in rows.all_inner_texts()]
        alerts = [int(row.split("\t")[2]) for row in rows.all_inner_texts()]
        expect(look.page.locator("section[aria-labelledby=untold]")).to_contain_text(
            f"{en(TODAY)}: {sum(alerts)} in total, {sum(overdue)} overdue; offices: 3"
        )
    assert len(overdue) == 3
    assert overdue == sorted(overdue, reverse=True)
    assert sum(overdue) > 0


def test_a_day_is_opened_from_the_chart_and_from_its_table(browser: Browser, scene: Scene):
    with window(browser, scene.url) as look:
        look.go()
        look.page.locator(f".targets a[href='/days/{BAD_DAY}']").click()
        expect(look.page.locator("h1")).to_have_text(f"The run of {en(BAD_DAY)} {BAD_DAY.year}")
        look.page.go_back()
        look.page.locator("summary").click()
        look.page.get_by_role("table").get_by_role("link", name=en(BAD_DAY)).click()
        expect(look.page.locator("table.counts")).to_contain_text(str(LOST))
        expect(look.page.locator("table.reasons")).to_contain_text("server_error:503")
        expect(look.page.locator("table.reasons")).to_contain_text("See its status page.")
        look.page.get_by_role("link", name="Overview", exact=True).click()
        expect(look.page.locator("h1")).to_have_text("Waiting for the next window")


def test_all_of_it_can_be_done_by_keyboard(browser: Browser, scene: Scene):
    after_the_run(scene)
    with window(browser, scene.url) as look:
        look.go()
        press = look.page.keyboard.press
        press("Tab")
        assert look.focused() == "A Skip to the content"
        expect(look.page.locator(".skip")).to_be_in_viewport()
        press("Enter")
        assert look.page.evaluate("document.activeElement.id") == "main"
        stops = tabs(look, 60)
        assert "A office_error:UndefinedError" in stops
        assert "SUMMARY As a table" in stops

        tab_to(look, "SUMMARY As a table")
        press("Enter")
        tab_to(look, f"A {en(BAD_DAY)}")
        press("Enter")
        expect(look.page.locator("h1")).to_have_text(f"The run of {en(BAD_DAY)} {BAD_DAY.year}")

        look.go()
        look.page.locator("#filter-reason").focus()
        press("r")
        tab_to(look, "BUTTON Filter")
        press("Enter")
        expect(look.page.locator("#list ~ table tbody tr")).to_have_count(1)


def tabs(look: Window, most: int) -> list[str]:
    """Where the Tab key leads, each with an outline that is seen."""
    stops: list[str] = []
    for _ in range(most):
        look.page.keyboard.press("Tab")
        stop = look.focused()
        if stop.startswith("BODY"):
            break
        stops.append(stop)
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert look.page.evaluate(ring) == "solid", stop
    return stops


def tab_to(look: Window, what: str) -> None:
    for _ in range(80):
        look.page.keyboard.press("Tab")
        if look.focused() == what:
            return
    pytest.fail(f"Tab never led to {what}")


def test_a_person_logs_in_and_out(browser: Browser, place: Place):
    with a_scene(place, http={"bind": "127.0.0.1:0", "token": TOKEN}) as scene, window(browser, scene.url) as look:
        look.expected = "status of (401|403)"
        answers: list[int] = []
        look.page.on("response", lambda answer: answers.append(answer.status))
        look.go(f"/days/{BAD_DAY}")
        look.page.keyboard.type("not the token")
        look.page.keyboard.press("Enter")
        expect(look.page.get_by_role("alert")).to_have_text("The token is wrong.")
        look.page.keyboard.type(TOKEN)
        look.page.keyboard.press("Enter")
        expect(look.page.locator("h1")).to_have_text(f"The run of {en(BAD_DAY)} {BAD_DAY.year}")
        look.go()
        expect(look.page.locator("#live")).to_be_visible()
        assert TOKEN not in str(look.page.context.cookies())
        assert look.page.evaluate("document.cookie") == ""
        look.page.get_by_role("button", name="Log out").click()
        expect(look.page.locator("h1")).to_have_text("Log in")
        assert {401, 403} <= set(answers)


def test_an_open_page_comes_back_with_the_daemon(browser: Browser, place: Place):
    with a_scene(place) as first, window(browser, first.url) as look:
        look.expected = "ERR_"
        look.go()
        expect(look.page.locator("#live")).to_be_visible()
        first.process.kill()
        expect(look.page.locator("#live")).to_be_hidden()
        bind = first.url.removeprefix("http://")
        with first.another(http={"bind": bind}):
            expect(look.page.locator("#live")).to_be_visible()


@pytest.mark.parametrize("language", ["ja", "en"])
def test_without_javascript_there_is_all_but_the_live_part(language: str, browser: Browser, scene: Scene):
    after_the_run(scene)
    with window(browser, scene.url, language=language, java_script_enabled=False) as look:
        look.go()
        expect(look.page.locator("noscript")).to_be_visible()
        expect(look.page.locator("#list ~ table tbody tr")).to_have_count(7)
        look.page.locator("#filter-reason").select_option("rejected:item")
        look.page.locator("form.filter button").click()
        expect(look.page.locator("#list ~ table tbody tr")).to_have_count(1)
        look.page.locator("summary").click()
        look.page.locator(f"details a[href='/days/{TODAY}']").click()
        expect(look.page.locator("table.counts")).to_be_visible()


def test_axe_and_vnu_find_nothing_on_any_page_in_any_state_and_nothing_is_wider_than_a_phone(
    browser: Browser, scene: Scene, tmp_path: Path
):
    """Vnu, the W3C's checker, judges what is served; axe, what the browser has made of it."""
    schemes: tuple[Scheme, ...] = ("light", "dark")
    views = list(product(("ja", "en"), schemes, (WIDE, NARROW)))
    found: dict[tuple[object, ...], list[str]] = {}

    def judge(when: str, *paths: str) -> None:
        for language, (place, path) in product(("ja", "en"), enumerate(paths)):
            served = httpx.get(scene.url + path, headers={"Accept-Language": language}).content
            (tmp_path / f"{when}-{place}-{language}.html").write_bytes(served)
        for language, scheme, width in views:
            with window(browser, scene.url, language=language, scheme=scheme, width=width) as look:
                look.expected = "status of 404"
                for path in paths:
                    look.go(path)
                    if look.page.locator("summary").count():
                        look.page.locator("summary").click()
                    found[when, path, language, scheme, width] = look.violations()
                    assert width == WIDE or look.page.evaluate("document.documentElement.scrollWidth") <= NARROW, path

    judge("before", "/", f"/days/{BAD_DAY}", "/nothing-here")
    with scene.place.frozen_servers():
        scene.open_window()
        await_that(lambda: scene.place.calls_in_flight() > 0)
        judge("during", "/")
    await_that(scene.is_over)
    judge("after", "/", "/?reason=rejected:item", f"/days/{TODAY}", f"/offices/{scene.sample.poisoned_office}")
    assert {view: wrong for view, wrong in found.items() if wrong} == {}
    assert len(found) == 8 * (3 + 1 + 4)
    pages = list(tmp_path.glob("*.html"))
    assert len(pages) == 2 * (3 + 1 + 4)
    assert complaints(pages) == []


def test_axe_finds_nothing_on_the_form_that_asks_for_the_token(browser: Browser, place: Place):
    with a_scene(place, http={"bind": "127.0.0.1:0", "token": TOKEN}) as scene:
        schemes: tuple[Scheme, ...] = ("light", "dark")
        for language, scheme in product(("ja", "en"), schemes):
            with window(browser, scene.url, language=language, scheme=scheme, width=NARROW) as look:
                look.expected = "status of (401|403)"
                look.go()
                assert look.violations() == []
                look.page.keyboard.type("wrong")
                look.page.keyboard.press("Enter")
                expect(look.page.get_by_role("alert")).to_be_visible()
                assert look.violations() == []


def test_a_refused_reload_and_a_provider_that_refuses_us_are_seen_at_once(browser: Browser, scene: Scene):
    with window(browser, scene.url) as look:
        look.go()
        expect(look.page.locator("#live")).to_be_visible()
        scene.place.configure(**{**scene.tables, "limits": {"offices": 0}})
        scene.process.send_signal(signal.SIGHUP)
        expect(look.page.locator(".alarms")).to_contain_text("limits.offices: 0 is out of range (1 to 100)")
        expect(look.page.locator("#now")).to_have_class("card now bad")
