"""``notifierd feedback`` and ``lift``, as processes, against Resend's API on loopback."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import trio

from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.model.feedback import MailStatus
from tests.support.daemon_process import AHEAD, PAST, TODAY
from tests.support.documented import differences, documented
from tests.support.feedback import serving_fake
from tests.support.processes import API_KEY, Done, Place, an_id, invent, run

pytestmark = pytest.mark.usefixtures("_forked_commands")

SHAPE = documented("feedback --json")


@asynccontextmanager
async def after_a_run(place: Place, fate: Callable[[int], MailStatus]) -> AsyncIterator[FakeResend]:
    """Two offices of two people whose mails Resend accepted, and an API that tells what became of them."""
    place.load(rows := invent(2, day=TODAY))
    place.serve(rows)
    place.configure(window=PAST)
    await trio.to_thread.run_sync(partial(run, "once", "--json", cwd=place.folder, code=0))
    fake = FakeResend()
    lines = place.sql(
        "select d.id, d.provider_message_id, s.email"
        " from notifierd.deliveries d join notifierd.staff s on s.id = d.staff_id where d.channel = 'email'"
        " order by s.email"
    ).splitlines()
    for number, line in enumerate(lines):
        key, message_id, address = line.split("|")
        fake.add(key, message_id, address, fate(number), "", datetime.now(UTC))  # type: ignore[arg-type]
    async with serving_fake(fake) as url:
        place.configure(
            window=PAST, **{"email.resend": {"api_key": API_KEY, "base_url": url, "feedback_key": FakeResend.key}}
        )
        yield fake


async def notifierd(place: Place, *args: str, code: int = 0) -> Done:
    """Run a command beside the API, which this process serves."""
    return await trio.to_thread.run_sync(partial(run, *args, cwd=place.folder, code=code))


def test_without_any_look_it_says_what_is_missing(place: Place) -> None:
    place.configure(window=AHEAD)
    found = json.loads(run("feedback", "--json", cwd=place.folder, code=0).out)
    assert found == {"looks": [], "days": [], "held": []}
    out = run("feedback", cwd=place.folder, code=0).out
    assert out == "resend: not set up; email.resend.feedback_key has notifierd ask\n"
    smtp = run("feedback", cwd=place.folder, environ={"NOTIFIERD_EMAIL_PROVIDER": "smtp"}, code=0).out
    assert smtp == "smtp: cannot be asked\n"
    refused = run("feedback", "--now", cwd=place.folder, code=2)
    assert "no provider can be asked: set email.PROVIDER.feedback_key" in refused.err


async def test_now_asks_and_the_report_has_what_became_of_each_mail(place: Place) -> None:
    """One mail was complained of; its recipient is held back from tomorrow on, until `lift`."""
    fates = [MailStatus.COMPLAINED, *[MailStatus.DELIVERED] * 3]
    async with after_a_run(place, lambda number: fates[number]):
        found: dict[str, Any] = (await notifierd(place, "feedback", "--now", "--json")).report
        assert differences(found, SHAPE) == []
        (look,), (day,) = found["looks"], found["days"]
        assert (look["provider"], look["result"]) == ("resend", "")
        assert (day["delivered"], day["complained"], day["not_known"]) == (3, 1, 0)
        assert found["held"] == [], "from tomorrow on"
        shown = (await notifierd(place, "feedback", "--days", "1")).out
        assert f"resend: known until {datetime.fromisoformat(look['complete_until']).astimezone():%a}"[:22] in shown
    someone = an_id("o0s0")
    place.sql(f"update notifierd.holds set since = '{TODAY}'")
    (held,) = json.loads(run("feedback", "--json", cwd=place.folder, code=0).out)["held"]
    until = TODAY + timedelta(days=30)
    assert held == {"staff_id": str(someone), "reason": "complained", "since": str(TODAY), "until": str(until)}
    words = f"not mailed since {TODAY.day} {TODAY:%B %Y}, until {until.day} {until:%B %Y}: complained"
    for command in (("feedback",), ("plan", "--explain", str(someone))):
        assert words in run(*command, cwd=place.folder, code=0).out
    status = run("status", "--json", cwd=place.folder, code=0).report
    assert (status["looks"], status["held"]) == (found["looks"], 1)
    words = run("status", cwd=place.folder, code=0).out
    assert "mails to 1 staff member" in words
    assert "came back    1 complained\n" in words
    (past,) = json.loads(run("history", "--json", cwd=place.folder, code=0).out)
    counts = {key: number for key, number in day.items() if key not in {"day", "provider"}}
    assert past["feedback"] == status["last_run"]["feedback"] == counts
    assert "came back: 1 complained\n" in run("once", cwd=place.folder, code=0).out
    lifted = run("lift", str(someone), cwd=place.folder, code=0).out.splitlines()
    assert lifted[0] == f"mails to {someone} are not held back any more; the next run sends them"
    assert lifted[2].startswith("  resend: remove the address from the team's suppression list")
    assert run("lift", str(someone), cwd=place.folder, code=0).out.startswith(f"no mails to {someone} are held back")
    assert json.loads(run("feedback", "--json", cwd=place.folder, code=0).out)["held"] == []


async def test_now_exits_1_if_an_answer_is_missing_and_4_beside_a_run(place: Place) -> None:
    async with after_a_run(place, lambda _: MailStatus.DELIVERED) as fake:
        fake.cut_after(0)
        done = await notifierd(place, "feedback", "--now", code=1)
        assert "resend: never asked completely; the last look was not complete (connection_lost)" in done.out
        place.sql(
            "update notifierd.runs set state = 'running', holder = 'host:1', lease_until = now() + interval '1 h'"
        )
        done = await notifierd(place, "feedback", "--now", code=4)
        assert "a run that is under way" in done.err
        place.sql("update notifierd.runs set state = 'completed', lease_until = null")
        place.sql("update notifierd.look_lease set holder = 'host:1', lease_until = now() + interval '1 h'")
        done = await notifierd(place, "feedback", "--now", code=4)
        assert "another process, which is asking the providers" in done.err
