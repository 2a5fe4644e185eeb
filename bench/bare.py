"""The limit: a bare httpx loop under Trio that sends recorded requests through as many slots as notifierd has.

``python -m bench.bare RECORDED`` prints the seconds on a processor that the loop took.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import httpx
import trio

from bench.servers import Request, requests_in
from notifierd.config.settings import LimitsSettings

LIMITS = LimitsSettings()
LANE = LIMITS.push // 4


async def worker(client: httpx.AsyncClient, requests: Iterator[Request]) -> None:
    """One slot."""
    for request in requests:
        url = f"http://127.0.0.1:{request.port}{request.path}"
        response = await client.post(url, content=request.body, headers=request.headers)
        response.raise_for_status()


async def send(requests: Sequence[Request]) -> None:
    """Send all of them."""
    async with (
        httpx.AsyncClient(limits=httpx.Limits(max_connections=LIMITS.email), timeout=30.0, trust_env=False) as mail,
        httpx.AsyncClient(limits=httpx.Limits(max_connections=LIMITS.push), timeout=30.0, trust_env=False) as push,
        trio.open_nursery() as nursery,
    ):
        for _, group in groupby(sorted(requests, key=lambda request: request.port), lambda request: request.port):
            lane = list(group)
            is_push = lane[0].path.startswith("/push/")
            shared = iter(lane)
            for _ in range(LANE if is_push else LIMITS.email):
                nursery.start_soon(worker, push if is_push else mail, shared)


if __name__ == "__main__":
    recorded = requests_in(Path(sys.argv[1]))
    before = time.process_time()
    trio.run(send, recorded)
    print(time.process_time() - before)
