"""The names that users, operators and their programs rely on. They stay: tests/data/public-names.txt lists them all.

Whoever adds a name adds its line there. A line that is changed or taken away breaks somebody's script, unit file,
dashboard or query.
"""

import ast
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from prometheus_client.parser import text_string_to_metric_families

import notifierd
from notifierd.cli.main import cli
from notifierd.cli.tables import ALERTS, TARGETS
from notifierd.config.keys import key_of
from notifierd.config.load import keys, variable
from notifierd.config.settings import PushSettings, Settings, WatchSettings
from notifierd.messages.alarms import worded
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.message import Alarm
from notifierd.model.office import Notice
from notifierd.model.reasons import Reason
from notifierd.rules import exits
from notifierd.send.webhooks import request_of
from notifierd.store.contract import VIEWS
from notifierd.store.database import open_database
from notifierd.store.schema import init, presets
from tests.support.documented import documented
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_id
from tests.web.test_monitoring import a_scrape

PACKAGE = Path(notifierd.__file__).parent
GOLDEN = (Path(__file__).parents[1] / "data" / "public-names.txt").read_text(encoding="utf-8").splitlines()
LEVELS = {"debug", "info", "warning", "error", "critical"}
COLUMNS = """
select table_name || '.' || column_name from information_schema.columns where table_schema = 'notifierd'
union all select proname || '()' from pg_proc where pronamespace = 'notifierd'::regnamespace
"""
JSON_OF = (
    "plan --json",
    "plan --explain STAFF_ID --json",
    "status --json",
    "retry --failed --json",
    "once --json",
    "check --json",
    "feedback --json",
)
"""Commands whose output other tests compare with its example in docs/commands.md, key by key."""


def commands() -> Iterator[str]:
    yield from _command(cli, "notifierd")


def _command(command: click.Command, name: str) -> Iterator[str]:
    yield name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{name} {', '.join([*parameter.opts, *parameter.secondary_opts])}"
        else:
            yield f"{name} {parameter.make_metavar(click.Context(command))}"
    if isinstance(command, click.Group):
        for each, inner in command.commands.items():
            yield from _command(inner, f"{name} {each}")


def exit_codes() -> Iterator[str]:
    return (str(value) for name, value in vars(exits).items() if name.startswith("EXIT_"))


def configuration() -> Iterator[str]:
    for dotted, field in keys(Settings):
        yield f"{dotted} = {variable(dotted)}"
        if key_of(field).secret:
            yield f"{dotted}_file = {variable(dotted)}_FILE"


def log_events() -> Iterator[str]:
    """Each event, and each name that a call of it spells out."""
    for file in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS):
                continue
            logger = ast.unparse(call.func.value)
            if logger == "log" or logger.startswith("structlog.get_logger("):
                assert isinstance(call.args[0], ast.Constant), f"{file}:{call.lineno}: an event is a literal"
                event = str(call.args[0].value)
                yield event
                yield from (f"{event} {label.arg}" for label in call.keywords if label.arg)


async def metrics() -> Iterable[str]:
    samples = [
        one
        for family in text_string_to_metric_families(await a_scrape())
        for one in family.samples
        if not one.name.endswith("_created")
    ]
    return [one.name for one in samples] + [f"{one.name} {label}" for one in samples for label in one.labels]


def json_keys() -> Iterator[str]:
    for command in JSON_OF:
        yield from (f"{command}: {place}" for place in _places(documented(command)))
    alarm = worded(Alarm(DAY, "failed", "crashed", {"error": ""}), "ja", host="", page="")
    yield from (f"watch.webhook_url: {place}" for place in _places(json.loads(request_of(alarm, WatchSettings()).body)))
    staff = a_staff("staff")
    notice = Notice(DAY, an_id("office"), "", staff, Channel.PUSH, (a_renewal(3),))
    delivery = Delivery(an_id("push"), an_id("office"), staff.id, Channel.PUSH, an_id("device"))
    renderer = Renderer(Settings(push=PushSettings(declarative=True)))
    payload = renderer.push(notice, delivery, a_device(staff), 60).payload
    yield from (f"push: {place}" for place in _places(json.loads(payload)))


def _places(value: Any, place: str = "$") -> Iterator[str]:
    """The keys of *value* and of what is in it; a list's first item stands for all."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{place}.{key}"
            yield from _places(inner, f"{place}.{key}")
    elif isinstance(value, list) and value:
        yield from _places(value[0], f"{place}[]")


def reasons() -> Iterator[str]:
    yield from Reason
    yield from (f"plan --explain, target: {code}" for code in TARGETS)
    yield from (f"plan --explain, alert: {code}" for code in ALERTS)


async def relations(database: str) -> list[str]:
    """The columns of the tables and views, and the functions, that `db init` makes."""
    (preset,) = presets()
    async with open_database(database) as db:
        await init(db, preset)
        names = [row[0] for row in await db.fetch(COLUMNS)]
    assert {name.partition(".")[0] for name in names} >= VIEWS.keys()
    return [*names, f"preset {preset}"]


def compare(kind: str, names: Iterable[str]) -> None:
    found = {f"{kind}: {name}" for name in names}
    expected = {line for line in GOLDEN if line.startswith(f"{kind}: ")}
    assert sorted(f"+ {line}" for line in found - expected) + sorted(f"- {line}" for line in expected - found) == []


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("command", commands),
        ("exit code", exit_codes),
        ("key", configuration),
        ("log event", log_events),
        ("json", json_keys),
        ("reason", reasons),
    ],
)
def test_names_that_others_rely_on_stay(kind: str, names: Callable[[], Iterable[str]]) -> None:
    compare(kind, names())


async def test_metrics_and_their_labels_stay() -> None:
    compare("metric", await metrics())


async def test_tables_views_and_columns_stay(database: str) -> None:
    compare("relation", await relations(database))


def test_the_list_is_sorted_and_has_no_other_kind() -> None:
    assert sorted(set(GOLDEN)) == GOLDEN
    kinds = {line.partition(": ")[0] for line in GOLDEN}
    assert kinds == {"command", "exit code", "json", "key", "log event", "metric", "reason", "relation"}
