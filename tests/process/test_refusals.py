"""A database that refuses in mid-run for ten seconds, for real: a process of its own, PostgreSQL, HTTP."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
import trio

from notifierd.demo.servers.trouble import MailConfig
from tests.support import faults
from tests.support.faults import running_once, until
from tests.support.processes import API_KEY, Place, invent

OFFICES, STAFF = 40, 3
MAILS = OFFICES * STAFF
IN_FLIGHT = 20
"""Calls of an office's mails each: half of all are in flight when the fault begins, the others are to be reserved."""

SECONDS = 10.0
MOST_LINES = 10

Fault = Callable[[Place], AbstractAsyncContextManager[None]]


def raising(state: str, event: str) -> Fault:
    return partial(faults.a_trigger, event=event, body=f"raise exception 'trouble' using errcode = '{state}';")


LEDGER, AUDIT = "update on notifierd.deliveries", "insert on audit_logs"

FAULTS: dict[str, Fault] = {
    "25006": faults.read_only_server,
    "42P01": faults.no_audit_view,
    "42501": partial(faults.no_right, right=LEDGER),
    "26000": raising("26000", LEDGER),
    "57014": partial(faults.a_trigger, event=AUDIT, body="perform pg_sleep(60); return new;"),
    "53100": raising("53100", AUDIT),
}


@pytest.mark.parametrize("keyless", [False, True], ids=["with keys", "without keys"])
@pytest.mark.parametrize("state", FAULTS)
async def test_a_refusal_of_ten_seconds_in_mid_run_loses_and_doubles_nobody(state: str, keyless: bool, place: Place):
    rows = invent(OFFICES, staff=STAFF)
    place.load(rows)
    place.serve(rows, MailConfig(api_key=API_KEY, keep_eml=False, honours_keys=not keyless))
    async with faults.holding(place.servers.mail_url) as (provider, url):
        place.configure(
            database={"dsn": place.dsn, "statement_timeout": 1.0},
            limits={"email": IN_FLIGHT, "offices": OFFICES},
            **{"email.resend": {"base_url": url}},
        )
        async with running_once(place, keyless=keyless) as run:
            await until(lambda: provider.waiting == IN_FLIGHT, "calls in flight")
            async with FAULTS[state](place):
                provider.released.set()
                await until(lambda: run.said("waiting_for_database"), "the trouble to be noticed")
                await trio.sleep(SECONDS)
            seen = await run.ended()
    assert (seen.code, seen.report["status"]) == (0, "completed"), seen.lines
    assert (seen.ledger, seen.accepted) == ({"sent": MAILS}, {"sent, 1": MAILS}), seen.lines
    assert place.sql("select count(*), count(distinct target_id) from audit_logs") == f"{MAILS}|{MAILS}"
    assert place.sql("select count(*) from notifierd.deliveries where audit_missing") == "0"
    assert seen.saying("waiting_for_database", state), seen.lines
    assert len(seen.lines) <= MOST_LINES, seen.lines
    assert seen.seconds < SECONDS + 20.0
