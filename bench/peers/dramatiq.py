"""The work by dramatiq on Redis: ``python -m bench.peers.dramatiq`` hands it out, and runs the worker until it is done.

One process with as many threads as there may be calls: threads share one connection pool to Redis, and no memory is
spent on further processes. What it gives up: see `bench.peers.blocking`.
"""

import subprocess
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers import blocking
from bench.peers.work import MAIL_SLOTS, Member, Office

broker = RedisBroker(url=blocking.PEER.redis_url)
dramatiq.set_broker(broker)


@dramatiq.actor
def tell(office: Office, members: list[Member]) -> None:
    blocking.tell(office, members)


def main() -> None:
    """Hand out the day's tasks, and wait until none is left."""
    command = [
        sys.executable,
        "-m",
        "dramatiq",
        "bench.peers.dramatiq",
        "--processes",
        "1",
        "--threads",
        str(MAIL_SLOTS),
    ]
    with subprocess.Popen(command) as worker:
        try:
            for office, members in blocking.due():
                tell.send(office, members)
            broker.join(tell.queue_name)
        finally:
            worker.terminate()


if __name__ == "__main__":
    main()
