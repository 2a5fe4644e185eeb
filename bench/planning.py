"""Planning alone: ``python -m bench.planning`` plans the day of ``./config.toml``, and sends nothing.

Prints how many deliveries were planned, and in how many seconds all and those of the first step; with ``--explain``
PostgreSQL's plan of the statement, and what each of its steps took. With ``--selective``, the three keys of [content]
decide who has a reason on the day.
"""

import re
import sys
import time
from pathlib import Path

import trio
from attrs import evolve

from notifierd.config.load import load_for_sending
from notifierd.config.settings import Settings
from notifierd.rules.due import Rules
from notifierd.rules.reminders import Reminders
from notifierd.service.site import open_site
from notifierd.store.database import open_database
from notifierd.store.ledger import PLAN_STEP, UNLIMITED
from notifierd.store.postgres import reminder_keys
from notifierd.store.sql.plans import PLAN
from tests.support.processes import DAY

STEP = re.compile(r"^ +(->|CTE|SubPlan|InitPlan|Index Cond:) |^Execution Time")
"""What of a plan is a step of it. The rest are conditions, and figures that say how."""


SELECTIVE = Reminders(frozenset({6, 5, 4}), frozenset({1}), frozenset({1}))
"""Keys with which everybody has a reason on DAY, a Tuesday, as without keys: the first renewal of DEADLINES that is not
overdue. All parts of the rule are in use, and the ledger writes the same rows."""


async def plan(settings: Settings, reminders: Reminders) -> None:
    async with open_site(settings) as site:
        rules = evolve(Rules.of(settings), reminders=reminders)
        began = time.monotonic()
        planned = await site.ledger.plan(DAY, rules)
        first = time.monotonic() - began
        while planned.later:
            planned = planned.followed_by(await site.ledger.plan_next(DAY, rules, UNLIMITED))
        print(planned.email + planned.push, f"{time.monotonic() - began:.2f} {first:.2f}")


async def explain(settings: Settings) -> None:
    """Plan the day under EXPLAIN, over such a connection as a run has, with mails and calls without a limit."""
    rules = Rules.of(settings)
    async with open_database(settings.database.dsn, statement_timeout=settings.database.plan_timeout) as db:
        rows = await db.fetch(
            "explain (analyze, costs off, buffers off) " + PLAN[rules.reminders.selective],
            DAY,
            rules.horizon_days,
            rules.overdue,
            rules.push,
            [],
            rules.devices_per_person,
            None,
            None,
            1,
            PLAN_STEP,
            *reminder_keys(rules),
        )
    print(*(row[0] for row in rows if STEP.search(row[0])), sep="\n")


if __name__ == "__main__":
    given = load_for_sending(Path("config.toml"))
    if sys.argv[1:] == ["--explain"]:
        trio.run(explain, given)
    else:
        trio.run(plan, given, SELECTIVE if sys.argv[1:] == ["--selective"] else Reminders())
