"""The shape of the batch that notifierd replaces, written anew from the report on it.

``python -m bench.old_batch RECORDED`` prints the seconds on a processor that it took. Offices are gathered, 10 at once;
mails go one for each request through a limiter of 5, which pauses for 0.1 s with its slot in hand; pushes block the
event loop. Its queries and its rendering are left out, which is in its favour: it posts the mails that notifierd sent,
as they were recorded.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import httpx
from pywebpush import webpush

from bench.application import PHONE_AUTH, STAFF
from bench.servers import Request, requests_in
from tests.processes import PHONE_PUBLIC, VAPID_KEY

OFFICES, MAILS, PAUSE = 10, 5, 0.1


async def tell_office(
    mails: Sequence[Request], pushes: Sequence[Request], client: httpx.AsyncClient, limiter: asyncio.Semaphore
) -> None:
    """A mail to each member, and then a push to those who have a device."""
    for mail, push in zip_longest(mails, pushes):
        if mail:
            async with limiter:
                url = f"http://127.0.0.1:{mail.port}{mail.path}"
                (await client.post(url, content=mail.body, headers=mail.headers)).raise_for_status()
                await asyncio.sleep(PAUSE)
        if push:
            webpush(
                {
                    "endpoint": f"http://127.0.0.1:{push.port}{push.path}",
                    "keys": {"p256dh": PHONE_PUBLIC, "auth": PHONE_AUTH},
                },
                "x" * 300,
                vapid_private_key=VAPID_KEY,
                vapid_claims={"sub": "mailto:notice@mail.example.jp"},
            )


async def batch(requests: Sequence[Request]) -> None:
    """The whole of it."""
    mails = [request for request in requests if request.path == "/emails"]
    pushes = [request for request in requests if request.path.startswith("/push/")]
    offices = len(mails) // STAFF
    devices = len(pushes) // offices
    at_once, limiter = asyncio.Semaphore(OFFICES), asyncio.Semaphore(MAILS)
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:

        async def guarded(office: int) -> None:
            async with at_once:
                mine = mails[office * STAFF : (office + 1) * STAFF], pushes[office * devices : (office + 1) * devices]
                await tell_office(*mine, client, limiter)

        await asyncio.gather(*map(guarded, range(offices)))


if __name__ == "__main__":
    recorded = requests_in(Path(sys.argv[1]))
    before = time.process_time()
    asyncio.run(batch(recorded))
    print(time.process_time() - before)
