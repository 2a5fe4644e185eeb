"""The page, the metrics and the commands while several processes work on a day: real ones, on a real PostgreSQL."""

import re
import signal
from html import unescape

import pytest

from tests.support.daemon_process import OPEN, TODAY, running_service
from tests.support.faults import until
from tests.support.processes import Place, invent, run, running
from tests.web.test_pages import becomes, samples

ROW = re.compile(r'<tr>\s*<th scope="row">(host-\w+)(.*?)</tr>', re.DOTALL)


@pytest.mark.usefixtures("_forked_commands")
async def test_all_processes_of_a_day_are_shown_by_each_of_them_and_by_status(place: Place):
    place.load(invent(6, staff=1, day=TODAY))
    place.configure(window=OPEN, cluster={"share": True, "name": "host-a"}, limits={"email": 4}, log={"format": "json"})
    async with running_service(place) as service:
        with place.frozen_servers():
            await until(lambda: place.states()["sending"] == 4, "four calls in flight")
            with running("once", "--json", cwd=place.folder, environ={"NOTIFIERD_CLUSTER_NAME": "host-b"}):
                shown = await becomes(service, "/", lambda page: len(ROW.findall(page.text)) == 2)
                (leader, about), (other, about_other) = ROW.findall(unescape(shown.text))
                assert (leader, other) == ("host-a", "host-b")
                assert ("主担当" in about, "主担当" in about_other) == (True, False)
                halved = ("notifierd_slots_granted", "email")
                scraped = samples((await becomes(service, "/metrics", lambda it: samples(it.text)[halved] == 2.0)).text)
                assert (scraped["notifierd_members",], scraped["notifierd_leads",]) == (2.0, 1.0)
                found = run("status", "--json", cwd=place.folder, code=0).report["members"]
                assert [(one["host"], one["leads"]) for one in found] == [("host-a", True), ("host-b", False)]
                counted = "select count(interim) from notifierd.run_members"
                await until(lambda: place.sql(counted) == "1", "the counts of the day")
                bars = re.findall(r'id="text-(\w+)"[^>]*>([^<]*)<', (await service.get("/")).text)
                assert bars == [("offices", "0 / 6"), ("mails", "0 / 6"), ("pushes", "0 / 0")]
        await until(lambda: place.states() == {"sent": 6}, "the end of the run")
        await until(lambda: {"day_joined", "report"} <= service.events, "the report")
        service.tell(signal.SIGTERM)
        await service.ended(0)
