"""A daemon with a page to look at: the sample application with its built-in trouble, and thirty days behind it."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from importlib.resources import files
from random import Random
from threading import Thread

import httpx
from attrs import define, evolve, field

from notifierd.demo.sample import Sample, load, sample
from tests.support.daemon_process import AHEAD, OPEN, TODAY
from tests.support.processes import API_KEY, PATIENCE, Place, Tables, running

TOKEN = "a-token-of-the-tests"
BAD_DAY = TODAY - timedelta(days=next(ago for ago in range(5, 8) if (TODAY - timedelta(days=ago)).weekday() < 5))
"""Of it, LOST mails were not delivered."""
LOST = 64


@define
class Scene:
    """What is looked at: a daemon that sleeps, and its page.

    Attributes:
        lines: the log so far.
    """

    place: Place
    sample: Sample
    process: "subprocess.Popen[str]"
    tables: Tables
    lines: list[str] = field(factory=list)

    def listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def url(self) -> str:
        """The page's origin."""
        found = [json.loads(line) for line in self.lines if '"listening"' in line]
        return f"http://{found[-1]['addresses'][0]}" if found else ""

    def ready(self) -> bool:
        """Whether it is up."""
        return bool(self.url) and httpx.get(f"{self.url}/readyz").status_code == 200

    def open_window(self) -> None:
        """Have the run begin."""
        self.place.configure(**{**self.tables, "window": OPEN})
        self.process.send_signal(signal.SIGHUP)

    def another(self, **tables: Mapping[str, object]) -> AbstractContextManager["Scene"]:
        """Start a daemon in place of this one."""
        return _running(self.place, self.sample, {**self.tables, **tables})

    def is_over(self) -> bool:
        """Whether the run is."""
        return self.place.sql(f"select state from notifierd.runs where day = '{TODAY}'") == "completed"


@contextmanager
def a_scene(
    place: Place, *, offices: int = 30, latency_ms: float = 50.0, **tables: Mapping[str, object]
) -> Iterator[Scene]:
    """Start a daemon ten hours before its window, with thirty days behind it, and one of each trouble before it.

    Args:
        latency_ms: of each call to a provider.
    """
    invented = sample(offices, TODAY, place.servers.push_url)
    load(place.cluster, place.database, invented)
    servers = invented.servers(latency_ms=latency_ms, keep_eml=False)
    place.servers.configure(evolve(servers, mail=evolve(servers.mail, api_key=API_KEY)))
    poison(place, invented)
    remember(place, invented)
    given: Tables = {
        "window": AHEAD,
        "content": {"templates": str(place.folder / "templates"), "product": "計画くん"},
        "limits": {"offices": 6, "email": 2, "push": 8, "shutdown_grace": 1.0},
        **tables,
    }
    with _running(place, invented, given) as scene:
        yield scene


@contextmanager
def _running(place: Place, invented: Sample, tables: Tables) -> Iterator[Scene]:
    place.configure(**tables)
    with running("run", cwd=place.folder) as process:
        scene = Scene(place, invented, process, tables)
        Thread(target=scene.listen, daemon=True).start()
        await_that(scene.ready)
        yield scene
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in {0, 4, -signal.SIGKILL}


def await_that(condition: Callable[[], bool]) -> None:
    """Wait for *condition*."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def poison(place: Place, invented: Sample) -> None:
    """A template of the operator's own that stumbles over one office."""
    templates = place.folder / "templates"
    templates.mkdir()
    shipped = (files("notifierd.messages") / "templates" / "mail.ja.subject.txt").read_text(encoding="utf-8")
    (name,) = (office.name for office in invented.rows.offices if office.id == invented.poisoned_office)
    stumble = f'{{% if office == "{name}" %}}{{{{ office.no_such_thing }}}}{{% endif %}}'
    (templates / "mail.ja.subject.txt").write_text(stumble + shipped, encoding="utf-8")


def remember(place: Place, invented: Sample) -> None:
    """Write thirty days into the ledger: weekends, a day that was missed, a bad one, and everyday ones."""
    chance = Random(7)
    lines = []
    for ago in range(1, 30):
        day = TODAY - timedelta(days=ago)
        if day.weekday() >= 5:
            name = "saturday" if day.weekday() == 5 else "sunday"
            lines.append(f"('{day}', 'skipped', 'weekend: {name}', null, null, null, null)")
        elif ago in {12, 13} and not any("missed" in line for line in lines):
            lines.append(f"('{day}', 'missed', 'not_running', null, null, null, null)")
        else:
            mails, pushes = chance.randrange(150, 260), chance.randrange(40, 110)
            failed = LOST if day == BAD_DAY else chance.choice((0, 0, 0, 1, 3))
            states = [
                {"channel": "email", "state": "sent", "n": mails - failed},
                {"channel": "email", "state": "failed", "n": failed},
                {"channel": "push", "state": "sent", "n": pushes},
                {"channel": "push", "state": "gone", "n": 1},
            ]
            counts = json.dumps({"offices": 24, "offices_failed": 0, "states": states})
            untold = [{"office_id": str(invented.unstaffed_office), "alerts": 3, "overdue": ago % 2}]
            began, took = f"'{day} 00:00:01+00'", chance.uniform(2.0, 4.0)
            ended = f"{began}::timestamptz + interval '{took:.1f} s'"
            lines.append(f"('{day}', 'completed', null, {began}, {ended}, '{counts}', '{json.dumps(untold)}')")
    place.sql(
        "insert into notifierd.runs (day, state, reason, started_at, finished_at, counts, untold) values "
        + ",\n".join(lines)
    )
    office = invented.rows.offices[-1].id
    place.sql(
        "insert into notifierd.deliveries (id, day, office_id, staff_id, channel, state, provider, reason) "
        f"select gen_random_uuid(), '{BAD_DAY}', '{office}', gen_random_uuid(), 'email', 'failed', 'resend', "
        f"'server_error:503' from generate_series(1, {LOST})"
    )


def tell(place: Place) -> None:
    """Write what the provider told of today's mails: some of every status, and nothing of three mails."""
    place.sql(
        "insert into notifierd.feedback (delivery_id, day, provider, status, code, address_key, seen_at) "
        "select id, day, provider, s.status, s.code, null, now() "
        "from (select *, row_number() over (order by office_id, staff_id) as n from notifierd.deliveries "
        f"where day = '{TODAY}' and channel = 'email' and state = 'sent') d "
        "cross join lateral (select coalesce((array['bounced', 'refused', 'suppressed', 'complained', 'delayed'])[n], "
        "'delivered') as status, coalesce((array['5.1.1', '5.7.1', '', '', '4.4.1'])[n], '2.0.0') as code) s "
        "where n < 6 or n > 8"
    )
    place.sql(
        "insert into notifierd.feedback_looks (provider, complete_until, looked_at, result) "
        "values ('resend', now(), now(), '')"
    )
