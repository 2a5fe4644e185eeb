"""What a pass asks the database on a day that is nearly done: ``python -m bench.counting``, after `bench.planning`.

Prints how many seconds three statements take: the count between two passes, the claim of the next offices, and the
count at the end, which also tells of failures and of alerts that reached nobody.
"""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from notifierd.config.load import load_for_sending
from notifierd.rules.due import Rules
from notifierd.store.database import open_database
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import CHUNK, START
from notifierd.store.sql.source import CLAIM
from tests.support.processes import DAY

ROUNDS = 3
"""How often each is measured; the least counts."""


async def main() -> None:
    """Ask as a run does, over one connection."""
    settings = load_for_sending(Path("config.toml"))
    rules = Rules.of(settings)
    async with open_database(settings.database.dsn, statement_timeout=settings.database.plan_timeout) as db:
        ledger = PostgresLedger(db)
        await ledger.take_lease(DAY, "bench")

        async def interim() -> None:
            counts = await ledger.counts(DAY, rules, interim=True)
            assert counts.backlog.open

        async def claim() -> None:
            assert len(await db.write(CLAIM, DAY, *START, CHUNK + 1, "bench", 1, [], None)) == CHUNK + 1

        async def whole() -> None:
            assert (await ledger.counts(DAY, rules)).email.sent

        print(await least(interim), await least(claim), await least(whole))


async def least(ask: Callable[[], Awaitable[None]]) -> float:
    """Return the fewest seconds that *ask* took."""
    taken = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        await ask()
        taken.append(time.monotonic() - began)
    return min(taken)


if __name__ == "__main__":
    trio.run(main)
