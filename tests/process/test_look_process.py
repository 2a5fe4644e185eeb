"""A look of the daemon beside a reload and a suspension of its process: nothing is lost, and nothing is doubled."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import trio
from attrs import define, field

from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.demo.servers.http11 import Answer, Request, serve_connection
from notifierd.model.feedback import MailStatus
from tests.support.daemon_process import PAST, TODAY, running_service
from tests.support.faults import until
from tests.support.loopback import serving
from tests.support.processes import API_KEY, Place, invent, run

FATES = (MailStatus.BOUNCED, MailStatus.COMPLAINED, MailStatus.DELIVERED, MailStatus.SUPPRESSED)


@define
class Waiting:
    """Resend's API, which answers once it is told to.

    Attributes:
        asked: how many requests came so far.
        left: how many of them the client did not wait for.
    """

    fake: FakeResend = field(factory=FakeResend)
    answers: trio.Event = field(factory=trio.Event)
    asked: int = 0
    left: int = 0

    async def answer(self, request: Request) -> Answer | None:
        self.asked += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hung_up, request)
            await self.answers.wait()
            nursery.cancel_scope.cancel()
        status, headers, body = self.fake.answer(request.method, request.target, request.headers, request.body)
        return Answer(status, body, headers)

    async def _hung_up(self, request: Request) -> None:
        await request.hung_up()
        self.left += 1
        await trio.sleep_forever()


@asynccontextmanager
async def after_a_run(place: Place) -> AsyncIterator[tuple[Waiting, str]]:
    """Two offices of two people, whose mails Resend accepted in a run that ended ten minutes ago; and Resend's URL."""
    place.load(rows := invent(2, day=TODAY))
    place.serve(rows)
    place.configure(window=PAST)
    await trio.to_thread.run_sync(partial(run, "once", "--json", cwd=place.folder, code=0))
    place.sql("update notifierd.runs set finished_at = finished_at - interval '10 min'")
    waiting = Waiting()
    lines = place.sql(
        "select d.id, d.provider_message_id, s.email"
        " from notifierd.deliveries d join notifierd.staff s on s.id = d.staff_id where d.channel = 'email'"
        " order by s.email"
    ).splitlines()
    for fate, line in zip(FATES, lines, strict=True):
        key, message_id, address = line.split("|")
        waiting.fake.add(UUID(key), message_id, address, fate, "", datetime.now(UTC))
    async with serving(partial(serve_connection, handle=waiting.answer)) as port:
        yield waiting, f"http://127.0.0.1:{port}"


def statuses(place: Place) -> list[str]:
    return place.sql("select status from notifierd.feedback order by 1").splitlines()


async def test_a_look_goes_on_beside_a_reload_with_the_key_that_it_began_with(place: Place) -> None:
    async with after_a_run(place) as (resend, url):
        table = {"api_key": API_KEY, "base_url": url, "feedback_key": FakeResend.key}
        place.configure(window=PAST, **{"email.resend": table})
        async with running_service(place) as service:
            await until(lambda: resend.asked == 1, "the look")
            place.configure(window=PAST, **{"email.resend": {**table, "feedback_key": "another"}})
            service.tell(signal.SIGHUP)
            await until(lambda: service.count("reloaded") == 1, "the reload")
            assert (resend.left, statuses(place)) == (0, [])
            resend.answers.set()
            await until(lambda: service.count("looked") == 1, "the end of the look")
            service.tell(signal.SIGTERM)
            await service.ended(0)
        assert statuses(place) == sorted(FATES)
        assert place.sql("select result from notifierd.feedback_looks") == ""


async def test_a_process_that_was_suspended_beyond_its_lease_leaves_the_look_to_another(place: Place) -> None:
    async with after_a_run(place) as (resend, url):
        table = {"api_key": API_KEY, "base_url": url, "feedback_key": FakeResend.key}
        place.configure(window=PAST, **{"email.resend": table})
        async with running_service(place) as service:
            await until(lambda: resend.asked == 1, "the look")
            service.tell(signal.SIGSTOP)
            place.sql("update notifierd.look_lease set holder = 'another', lease_until = now() + interval '1 h'")
            service.tell(signal.SIGCONT)
            await until(lambda: resend.left == 1, "the end of the look, at the next renewal of its lease")
            resend.answers.set()
            assert place.sql("select holder from notifierd.look_lease") == "another"
            assert (statuses(place), place.sql("select provider from notifierd.feedback_looks")) == ([], "")
            place.sql("update notifierd.look_lease set holder = null")  # the other process died
            command = partial(run, "feedback", "--now", "--json", cwd=place.folder, code=0)
            report = (await trio.to_thread.run_sync(command)).report
            service.tell(signal.SIGTERM)
            await service.ended(0)
        (day,) = report["days"]
        assert [day[status] for status in FATES] == [1, 1, 1, 1]
        assert statuses(place) == sorted(FATES)
