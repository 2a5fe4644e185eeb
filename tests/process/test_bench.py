"""The bench measures what it says: whatever is compared sends the same, and each message once."""

import json
import pickle
import re
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path

import pytest

from bench import look
from bench.application import Size, running_applications
from bench.compare import LEANEST, OURS, peers
from bench.measure import measured
from bench.runs import asleep, bare, notifierd, old_batch
from bench.servers import requests_in, running_servers
from bench.where import IMPORTS

SIZE = Size(offices=3, devices=2)


def names(page: str) -> list[str]:
    """The sample's names of staff and recipients on a page. What is new stands there twice: above the lists, too."""
    return sorted(set(re.findall(r"o\d+[rs]\d+", page)))


def told(recorded: Path) -> list[list[str]]:
    """Who is told of whom by the mails that came to the mail API."""
    return sorted(names(json.loads(one.body)["html"]) for one in requests_in(recorded) if one.path == "/emails")


def told_by_smtp(recorded: Path) -> list[list[str]]:
    """Who is told of whom by the mails that came by SMTP."""
    mails = (message_from_bytes(one.body, policy=SMTP) for one in requests_in(recorded) if one.path == "/smtp")
    return sorted(
        names(part.get_content()) for mail in mails for part in mail.walk() if part.get_content_type() == "text/html"
    )


def test_all_that_is_compared_sends_the_same_once(tmp_path: Path):
    recorded, by_old_batch = tmp_path / "recorded", tmp_path / "by-old-batch"
    with running_servers() as servers, running_applications(tmp_path, servers) as applications:
        with applications.of(SIZE) as application:
            assert measured("bench.planning", folder=application.folder).out.startswith("36 ")
            batches = notifierd(application, servers)
            single = notifierd(application, servers, single=True, latency=0.02, record=recorded)
            old = old_batch(application, servers, latency=0.02, record=by_old_batch)
        loop = bare(recorded, SIZE, servers, latency=0.02)
        rows = (batches, single, old, loop)

        requests = requests_in(recorded)
        assert [sum(one.path.startswith(path) for one in requests) for path in ("/emails", "/push/")] == [30, 6]
        assert told(recorded) == told_by_smtp(by_old_batch)
        assert all(len(mail) > 5 for mail in told(recorded))
        recorded.write_bytes(pickle.dumps(pickle.loads(recorded.read_bytes()) * 2))
        with pytest.raises(AssertionError, match="again=36"):
            bare(recorded, SIZE, servers)
    assert [row.deliveries for row in rows] == [36] * 4
    assert old.statements == (5, 36)
    assert [row.ideal for row in (batches, single)] == [0.0, pytest.approx(0.02 * 6)]  # six times five mails at once
    assert all(row.seconds > row.sending > row.ideal for row in rows)
    assert all(row.cpu > 0 and row.peak > 10 for row in rows)


def test_the_leanest_program_tells_the_same_people_of_the_same(tmp_path: Path):
    ours, leanest = tmp_path / "ours", tmp_path / "leanest"
    with (
        running_servers() as servers,
        running_applications(tmp_path, servers) as applications,
        peers(tmp_path) as others,
    ):
        with applications.of(Size(offices=3)) as application:
            others.run(OURS, application, servers, "single", ours)
            found = [others.run(LEANEST, application, servers, "single", leanest)]
            found += [others.run(LEANEST, application, servers, "batch")]
        with applications.of(Size(offices=3, devices=2, mails=False)) as application:
            found += [others.run(LEANEST, application, servers, "push")]
    assert told(leanest) == told(ours)
    assert [result.statements for result in found] == [1 + 3 * 30, 1 + 3 * 3, 1 + 3 * 6]


def test_the_time_on_a_processor_goes_to_parts_that_add_up(tmp_path: Path):
    with (
        running_servers() as servers,
        running_applications(tmp_path, servers) as applications,
        applications.of(SIZE) as application,
    ):
        notifierd(application, servers, single=True, sampled=tmp_path / "sampled")
        assert asleep(application, servers) > 10
    shares = json.loads((tmp_path / "sampled").read_text())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[IMPORTS] > 0


def test_a_look_is_at_all_mails_and_makes_the_calls_that_they_need(tmp_path: Path):
    with (
        running_servers() as servers,
        running_applications(tmp_path, servers) as applications,
        applications.of(SIZE) as application,
    ):
        for name in ("postmark", "ses"):  # Resend may be asked twice a second
            found = look.look(application, name)
            assert found.calls == look.PROVIDERS[name].calls(SIZE.mail_count)
            assert found.cpu > 0
            assert found.peak > 10
