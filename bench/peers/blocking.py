"""What dramatiq and Celery have in common: tasks that block, with requests and psycopg.

A task carries all that its mails are made from, so that the worker reads nothing. What both give up: nothing records
who was written to. A worker that dies after a call and before its acknowledgement sends the mail again (for a day, the
provider's idempotency key hides that), and tasks that are handed out twice are carried out twice. What is due is not
looked at again before a late call, and a day that was cut short has no report.
"""

import threading
from functools import lru_cache

import psycopg
import requests
from psycopg.rows import dict_row

from bench.peers.work import MAIL_AUDIT, OFFICES, Member, Office, Peer, audit, tasks

PEER = Peer()
AUDIT = MAIL_AUDIT.format("%s", "%s", "%s")


class Lines(threading.local):
    """A thread's own connections."""

    def __init__(self) -> None:
        self.session = requests.Session()
        self.database = psycopg.connect(PEER.dsn, autocommit=True)


@lru_cache(1)
def lines() -> Lines:
    """The connections, made in the process that uses them: Celery's forks."""
    return Lines()


@lru_cache(16)
def texts(office: tuple[tuple[str, str], ...]) -> list[str]:
    """What an office's mails say: the tasks of an office mostly come one after the other."""
    return PEER.texts(dict(office))


def tell(office: Office, members: list[Member]) -> None:
    """Carry out one task: one call, and its audit rows."""
    url, body, headers = PEER.mail_call(office["office"], texts(tuple(office.items())), members)
    here = lines()
    here.session.post(url, data=body, headers=headers, timeout=30).raise_for_status()
    here.database.execute(AUDIT, ([member[0] for member in members], office["office"], audit(office)))


def due() -> list[tuple[Office, list[Member]]]:
    """The tasks of the day."""
    with psycopg.connect(PEER.dsn, row_factory=dict_row) as database:
        offices = database.execute(OFFICES.format("%(day)s"), {"day": PEER.day}).fetchall()
    return list(tasks(PEER, offices))
