"""The bench measures what it says: whatever is compared sends the same, and each message once."""

import pickle
from pathlib import Path

import pytest

from bench.application import Size, running_applications
from bench.measure import measured
from bench.runs import notifierd, replayed
from bench.servers import requests_in, running_servers

SIZE = Size(offices=3, devices=2)


def test_all_that_is_compared_sends_the_same_once(tmp_path: Path):
    recorded = tmp_path / "recorded"
    with running_servers() as servers, running_applications(tmp_path, servers) as applications:
        with applications.of(SIZE) as application:
            assert measured("bench.planning", folder=application.folder).out.startswith("36 ")
            batches = notifierd(application, servers)
            single = notifierd(application, servers, single=True, latency=0.02, record=recorded)
        rows = [replayed(what, recorded, SIZE, servers, latency=0.02) for what in ("bare", "old_batch")]

        requests = requests_in(recorded)
        assert [sum(one.path.startswith(path) for one in requests) for path in ("/emails", "/push/")] == [30, 6]
        recorded.write_bytes(pickle.dumps(pickle.loads(recorded.read_bytes()) * 2))
        with pytest.raises(AssertionError, match="again=36"):
            replayed("bare", recorded, SIZE, servers)
    assert [row.deliveries for row in (batches, single, *rows)] == [36] * 4
    assert [row.ideal for row in (batches, single)] == [0.0, pytest.approx(0.02 * 6)]  # six times five mails at once
    assert all(row.seconds > row.sending > row.ideal for row in (batches, single, *rows))
    assert all(row.cpu > 0 and row.peak > 10 for row in (batches, single, *rows))
