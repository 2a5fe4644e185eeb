"""The leanest program that does the work: ``python -m bench.peers.leanest``, by asyncio, aiohttp and asyncpg.

It writes each message into a table before the call, and its outcome with the audit row after it, so that nobody is
written to twice. What it gives up: no retry, so a call that fails ends everything, and what was in flight then is never
sent; no plan, so nobody knows what is missing; no limit on rates or on the day; no fresh look at what is due before a
late call; no isolation of bad data; no answer read beyond its status; no report, page, log, metrics or alarms.
"""

import asyncio
import json
from collections.abc import Iterator
from time import time
from typing import Any

import aiohttp
import asyncpg

from bench.peers.work import (
    DEVICES,
    MAIL_AUDIT,
    MAIL_SLOTS,
    OFFICES,
    PUSH_AUDIT,
    PUSH_SLOTS,
    Member,
    Office,
    Peer,
    audit,
)

BEGIN = """
insert into peers.told (day, office_id, target, state)
select $1::date, $2::uuid, unnest($3::uuid[]), 'sending' on conflict do nothing returning target
"""
SENT = (
    "update peers.told set state = 'sent' where day = $1::date and office_id = $2::uuid and target = any ($3::uuid[])"
)


class Vapid:
    """Signed tokens, one for each push service."""

    def __init__(self, key: str) -> None:
        from py_vapid import Vapid02

        self._vapid = Vapid02.from_string(key)
        self._made: dict[str, dict[str, str]] = {}

    def headers(self, endpoint: str) -> dict[str, str]:
        origin = endpoint[: endpoint.index("/", 8)]
        if origin not in self._made:
            claims = {"sub": "mailto:notice@mail.example.jp", "aud": origin, "exp": int(time()) + 43_200}
            self._made[origin] = {**self._vapid.sign(claims), "Content-Encoding": "aes128gcm", "TTL": "36000"}
        return self._made[origin]


class Program:
    """The whole of it."""

    def __init__(self, peer: Peer, pool: "asyncpg.Pool[Any]", session: aiohttp.ClientSession) -> None:
        self._peer, self._pool, self._session = peer, pool, session

    async def run(self) -> None:
        """Tell everybody."""
        offices = await self._pool.fetch((DEVICES if self._peer.push else OFFICES).format("$1"), self._peer.day)
        work = self._pushes(offices) if self._peer.push else self._mails(offices)
        async with asyncio.TaskGroup() as group:
            for _ in range(PUSH_SLOTS if self._peer.push else MAIL_SLOTS):
                group.create_task(self._work(work))

    async def _work(self, work: "Iterator[tuple[Office, list[str], list[str], str, bytes, dict[str, str]]]") -> None:
        """One slot: reserve, send, settle, as long as there is something to do."""
        statement = (PUSH_AUDIT if self._peer.push else MAIL_AUDIT).format("$1", "$2", "$3")
        for office, targets, staff, url, body, headers in work:
            here = (self._peer.day, office["office"], targets)
            if len(await self._pool.fetch(BEGIN, *here)) < len(targets):
                continue
            async with self._session.post(url, data=body, headers=headers) as answer:
                answer.raise_for_status()
                await answer.read()
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(SENT, *here)
                await connection.execute(statement, staff, office["office"], audit(office))

    def _mails(
        self, offices: list[Office]
    ) -> "Iterator[tuple[Office, list[str], list[str], str, bytes, dict[str, str]]]":
        for office in offices:
            texts = self._peer.texts(office)
            for members in self._peer.calls(json.loads(office["members"])):
                staff = [member[0] for member in members]
                yield (office, staff, staff, *self._peer.mail_call(office["office"], texts, members))

    def _pushes(
        self, offices: list[Office]
    ) -> "Iterator[tuple[Office, list[str], list[str], str, bytes, dict[str, str]]]":
        from pywebpush import WebPusher

        vapid = Vapid(self._peer.vapid_key)
        for office in offices:
            payload = self._peer.payload(office)
            members: list[Member] = json.loads(office["members"])
            for staff, device, endpoint, p256dh, auth in members:
                subscription = {"endpoint": endpoint, "keys": {"p256dh": p256dh, "auth": auth}}
                body = WebPusher(subscription).encode(payload, "aes128gcm")["body"]
                yield office, [device], [staff], endpoint, body, vapid.headers(endpoint)


async def main() -> None:
    """Connect, and run."""
    peer = Peer()
    async with (
        asyncpg.create_pool(peer.dsn, min_size=1, max_size=4) as pool,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session,
    ):
        await Program(peer, pool, session).run()


if __name__ == "__main__":
    asyncio.run(main())
