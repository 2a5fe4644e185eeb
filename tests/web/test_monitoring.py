"""The alerts and the dashboard that come with notifierd: what they ask for exists, and Prometheus can read it."""

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import trio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from notifierd.model.counts import ChannelCounts
from notifierd.model.delivery import Channel
from notifierd.store.feedback import FeedbackDay, LookState
from notifierd.store.history import Day, UntoldTotal
from notifierd.web.feedback import Told
from notifierd.web.metrics import scrape
from tests.support.fake_daemon import NINE, Daemon
from tests.support.samples import DAY

DOCS = Path(__file__).parents[2] / "docs"
SCRAPED = {"job", "instance"}
"""Labels that Prometheus gives."""

CLOSED = {"state", "overdue", "channel", "limiter", "status"}
"""Labels whose values are all known beforehand."""

NONE = ("delayed", "bounced", "refused", "suppressed", "complained")


async def a_scrape() -> str:
    """All that a daemon may tell, after everything happened once."""
    daemon = Daemon()
    daemon.status.metrics.call_seconds["resend"].observe(0.2)
    ended, mails = NINE + timedelta(seconds=3), ChannelCounts.of({"sent": 3})
    untold = UntoldTotal(2, 1, 1)
    day = Day(DAY, "completed", None, None, NINE, ended, 1, 0, mails, ChannelCounts(), untold)
    became = FeedbackDay(DAY, "resend", delivered=2, **dict.fromkeys(NONE, 0), not_known=1)
    told = Told((became,), (LookState("resend", ended, ended, ""),), held=1)
    return scrape(daemon, (day,), told, 0).decode()


async def test_how_a_day_is_shared_is_told_of_the_process_that_is_asked(autojump_clock):
    daemon = Daemon()

    def told() -> dict[str, float]:
        families = text_string_to_metric_families(scrape(daemon, (), None, 0).decode())
        return {
            " ".join([one.name.removeprefix("notifierd_"), *one.labels.values()]): one.value
            for family in families
            for one in family.samples
            if re.match("notifierd_(members|leads|slots_granted)", one.name)
        }

    assert told() == {"members": 0.0, "leads": 0.0, "slots_granted email": 0.0, "slots_granted push": 0.0}
    progress = daemon.begin(1, 1, 1).progress
    progress.members, progress.leads, progress.granted = 3, True, {Channel.EMAIL: 2, Channel.PUSH: 7}
    assert told() == {"members": 3.0, "leads": 1.0, "slots_granted email": 2.0, "slots_granted push": 7.0}


@pytest.fixture(scope="module")
def existing() -> dict[str, dict[str, set[str]]]:
    """Each series by its name, with the values of its labels."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(trio.run(a_scrape)):
        for one in family.samples:
            for label, value in {**one.labels, "": ""}.items():
                found[one.name][label].add(value)
    return {name: {**labels} for name, labels in found.items()} | {"up": {}}


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((DOCS / "prometheus-rules.yml").read_text(encoding="utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found = json.loads((DOCS / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def expressions() -> list[str]:
    """Every expression; Grafana's own variables as it would fill them in."""
    board = dashboard()
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in board["annotations"]["list"]]
    filled = [expr.replace("$__rate_interval", "1m").replace("$__interval", "1m") for expr in asked]
    return [rule["expr"] for rule in alerts()] + [expr.replace("$job", "notifierd") for expr in filled]


def selectors(expression: Any) -> Iterator[Any]:
    """The series that an expression asks for."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for part in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        if isinstance(inner := getattr(expression, part, None), promql_parser.Expr):
            yield from selectors(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from selectors(inner)


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_there_is(expression: str, existing: dict[str, dict[str, set[str]]]):
    asked = list(selectors(promql_parser.parse(expression)))
    assert len(asked) == expression.count("notifierd_") + expression.count("process_") + expression.count("up{")
    for one in asked:
        labels = existing[one.name]
        for matcher in one.matchers.matchers:
            assert matcher.name in labels.keys() | SCRAPED
            if matcher.name in CLOSED:
                assert set(matcher.value.split("|")) <= labels[matcher.name]


def test_a_name_that_does_not_exist_is_found(existing: dict[str, dict[str, set[str]]]):
    with pytest.raises(KeyError):
        test_an_expression_asks_for_what_there_is("sum(rate(notifierd_mails_total[1m]))", existing)
    with pytest.raises(AssertionError):
        test_an_expression_asks_for_what_there_is('notifierd_untold_alerts{overdue="yes"}', existing)


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names))
    for alert in alerts():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"].keys() == {"summary", "description"}


def test_the_dashboards_panels_have_ids_of_their_own_and_do_not_overlap():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_what_is_scraped_has_names_and_units_by_prometheus_conventions(existing: dict[str, dict[str, set[str]]]):
    for name in existing.keys() - {"up"}:
        assert name.startswith(("notifierd_", "process_"))
        assert not any(unit in name for unit in ("_ms", "_minutes", "_kb", "_count_total"))


def test_the_docs_name_each_metric_with_its_labels_and_no_other(existing: dict[str, dict[str, set[str]]]):
    page = (DOCS / "page.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`((?:notifierd|process)_[a-z_]+)(?:\{([a-z,]+)\})?`", page))
    series = {
        re.sub(r"_(bucket|count|sum)$", "", name): labels.keys() - {"", "le"} for name, labels in existing.items()
    }
    assert {name: set(filter(None, labels.split(","))) for name, labels in named.items()} == {
        name: labels for name, labels in series.items() if name != "up"
    }


def test_the_start_is_the_process_and_not_its_first_scrape():
    """Told between two readings of the clock: before the process was made, and as the first thing that it did."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    code = "import time; first = time.time(); from notifierd.web import metrics; print(first, metrics.STARTED)"
    before = time.time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, started = map(float, done.stdout.split())
    assert before - tick <= started <= first + tick
