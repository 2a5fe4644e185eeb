"""The work by Celery on Redis: ``python -m bench.peers.celery`` hands it out, and runs the worker until it is done.

The default pool: a process for each call at once. A task is acknowledged after it was carried out, else the death of a
worker would lose mails. Events between workers are off, as there is one worker. What it gives up: see
`bench.peers.blocking`.
"""

import subprocess
import sys
import time

import redis
from celery import Celery

from bench.peers import blocking
from bench.peers.work import MAIL_SLOTS, Member, Office

LOOK_EVERY = 0.1

app = Celery("peer", broker=blocking.PEER.redis_url)
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=False)


@app.task(name="tell")
def tell(office: Office, members: list[Member]) -> None:
    blocking.tell(office, members)


def main() -> None:
    """Hand out the day's tasks, and wait until none is left."""
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    command = ["-m", "celery", "--app", "bench.peers.celery", "worker", "--concurrency", str(MAIL_SLOTS), *options]
    with subprocess.Popen([sys.executable, *command]) as worker, redis.Redis.from_url(blocking.PEER.redis_url) as queue:
        try:
            for office, members in blocking.due():
                tell.delay(office, members)
            while queue.llen("celery") or queue.hlen("unacked"):
                time.sleep(LOOK_EVERY)
        finally:
            worker.terminate()


if __name__ == "__main__":
    main()
