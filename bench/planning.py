"""Planning alone: ``python -m bench.planning`` plans the day of ``./config.toml`` in one statement, and sends nothing.

Prints how many deliveries were planned, and in how many seconds.
"""

import time
from pathlib import Path

import trio

from notifierd.assemble import open_site
from notifierd.choose import Rules
from notifierd.config import load_for_sending
from tests.processes import DAY


async def plan() -> None:
    settings = load_for_sending(Path("config.toml"))
    async with open_site(settings) as site:
        began = time.monotonic()
        planned = await site.ledger.plan(DAY, Rules.of(settings))
        print(planned.email + planned.push, time.monotonic() - began)


if __name__ == "__main__":
    trio.run(plan)
