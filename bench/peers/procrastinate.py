"""The work by procrastinate on PostgreSQL: ``python -m bench.peers.procrastinate`` hands it out, and carries it out.

All tasks are handed out in one statement, and one process with as many asyncio tasks as there may be calls carries them
out. What it gives up: a mail's audit row and the end of its task are two transactions, so a worker that dies between
them sends the mail again when somebody puts the task back; by itself it does not come back, as procrastinate leaves
tasks of a dead worker as they are. What is due is not looked at again before a late call, and a day has no report.
"""

import asyncio
from functools import lru_cache

import aiohttp
from procrastinate import App, PsycopgConnector

from bench.peers.work import MAIL_AUDIT, MAIL_SLOTS, OFFICES, Member, Office, Peer, audit, tasks

PEER = Peer()
AUDIT = MAIL_AUDIT.format("%(staff)s", "%(office)s", "%(details)s")

app = App(connector=PsycopgConnector(conninfo=PEER.dsn, min_size=1, max_size=4))


@lru_cache(16)
def texts(office: tuple[tuple[str, str], ...]) -> list[str]:
    """What an office's mails say: the tasks of an office come one after the other."""
    return PEER.texts(dict(office))


@lru_cache(1)
def session() -> aiohttp.ClientSession:
    """The one session, made within the event loop."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30))


@app.task(name="tell")
async def tell(office: Office, members: list[Member]) -> None:
    """One call, and its audit rows."""
    url, body, headers = PEER.mail_call(office["office"], texts(tuple(office.items())), members)
    async with session().post(url, data=body, headers=headers) as answer:
        answer.raise_for_status()
        await answer.read()
    staff = [member[0] for member in members]
    await app.connector.execute_query_async(AUDIT, staff=staff, office=office["office"], details=audit(office))


async def main() -> None:
    """Hand out the day's tasks, and carry out all of them."""
    async with app.open_async(), session():
        offices = await app.connector.execute_query_all_async(OFFICES.format("%(day)s"), day=PEER.day)
        await tell.batch_defer_async(*({"office": o, "members": members} for o, members in tasks(PEER, offices)))
        await app.run_worker_async(concurrency=MAIL_SLOTS, wait=False, delete_jobs="successful")


if __name__ == "__main__":
    asyncio.run(main())
