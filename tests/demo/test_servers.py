"""The local mail API and push service: as strict as the real ones, trouble as ordered, and gone with their parent."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import httpx
import pytest
from py_vapid import Vapid02
from pywebpush import WebPusher

from notifierd.demo.sample import Sample, sample
from notifierd.demo.servers.process import Servers, ServersFailed, running_servers
from notifierd.demo.servers.trouble import MailConfig, PushConfig, Rule, ServersConfig

PATIENCE = 60.0
"""Seconds after which what has not come is a failure."""

PARENT = """
import signal, sys
from pathlib import Path
from notifierd.demo.servers.process import running_servers
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the suite runs in a shell's background
with running_servers(Path(sys.argv[1])) as servers:
    print(servers.pid, flush=True)
    signal.pause()
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run both servers for this module; each test configures them anew and looks at what is new."""
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture
def api(servers: Servers) -> Iterator[httpx.Client]:
    """Return a client of the mail API, with its key."""
    servers.configure(ServersConfig())
    with httpx.Client(
        base_url=servers.mail_url, headers={"authorization": "Bearer re_demo"}, timeout=PATIENCE
    ) as client:
        yield client


@pytest.fixture
def invented(servers: Servers) -> Sample:
    """Return a sample whose devices the push service knows."""
    made = sample(5, date(2026, 11, 24), servers.push_url)
    servers.configure(made.servers())
    return made


def mail(to: str = "hanako.sato@example.jp", **more: Any) -> dict[str, Any]:
    """Return an email as Resend takes it."""
    return {
        "from": "けいかくん <noreply@example.com>",
        "to": [to],
        "subject": "【期限】更新のお知らせ",
        "html": "<p>山田 &lt;b&gt; 🌸</p>",
        "text": "山田 <b> 🌸",
        "headers": {"X-Entity-Ref-ID": "d-1"},
        **more,
    }


def error(response: httpx.Response) -> tuple[int, str]:
    """Return an error's status and name, having checked that its body agrees with its status."""
    body = response.json()
    assert body.keys() == {"statusCode", "name", "message"}
    assert body["statusCode"] == response.status_code
    return response.status_code, body["name"]


# The mail API


def test_accepted_mail_can_be_opened(servers: Servers, api: httpx.Client) -> None:
    """A mail is answered with an id, stands in the journal, and is a file that a mail program can read."""
    response = api.post("/emails", json=mail(reply_to="窓口 <desk@example.com>"), headers={"idempotency-key": "one"})
    assert response.status_code == 200
    last = servers.mails()[-1]
    assert (last.id, last.delivery_id, last.to) == (response.json()["id"], "d-1", ("hanako.sato@example.jp",))
    assert (last.subject, last.idempotency_key) == ("【期限】更新のお知らせ", "one")
    path = servers.out / "mails" / f"{last.number:04}.eml"
    opened = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert (opened["subject"], opened["x-entity-ref-id"]) == ("【期限】更新のお知らせ", "d-1")
    assert opened["from"].addresses[0].display_name == "けいかくん"
    assert opened["reply-to"].addresses[0].addr_spec == "desk@example.com"
    parts = [opened.get_body((kind,)) for kind in ("plain", "html")]
    assert [part.get_content().strip() for part in parts if part] == ["山田 <b> 🌸", "<p>山田 &lt;b&gt; 🌸</p>"]
    assert (servers.out / "mails").stat().st_mode & 0o777 == 0o700


def test_received_is_told_over_http(servers: Servers, api: httpx.Client) -> None:
    """``GET /_received`` has what the journal has, and every call with its answer."""
    api.post("/emails", json=mail())
    api.post("/emails", json=[])
    told = api.get("/_received").json()
    assert len(told["accepted"]) == len(servers.mails())
    assert [call["status"] for call in told["calls"][-2:]] == [200, 422]


def test_what_became_of_mails_is_told_to_a_key_with_full_access(servers: Servers, api: httpx.Client) -> None:
    """As it is configured for the address; other mails are delivered. The key that sends may not ask."""
    servers.configure(ServersConfig(MailConfig(became={"taro@example.jp": "bounced"})))
    sent = [api.post("/emails", json=mail(to=to)).json()["id"] for to in ("taro@example.jp", "hanako@example.jp")]
    assert error(api.get("/emails")) == (401, "validation_error")
    full = {"authorization": "Bearer re_demo_full_access"}
    listed = api.get("/emails", params={"limit": "2"}, headers=full).json()
    assert [(one["id"], one["last_event"]) for one in reversed(listed["data"])] == [
        (sent[0], "bounced"),
        (sent[1], "delivered"),
    ]
    asked = {"dimensions": "email", "metrics": "bounced_permanent", "email_id": ",".join(sent)}
    counted = api.get("/emails/metrics", params=asked, headers=full).json()
    assert {one["email_id"]: one["bounced_permanent"] for one in counted["data"]} == {sent[0]: 1, sent[1]: 0}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({"json": mail(to="no address")}, (422, "validation_error")),
        ({"json": mail(to="")}, (422, "validation_error")),
        ({"json": mail(subject="")}, (422, "missing_required_field")),
        ({"json": mail(html="", text="")}, (422, "missing_required_field")),
        ({"json": mail(subject="a\nBcc: b@example.com")}, (422, "validation_error")),
        ({"json": "text"}, (422, "validation_error")),
        ({"content": b"{"}, (400, "validation_error")),
        ({"json": mail(), "headers": {"authorization": ""}}, (401, "missing_api_key")),
        ({"json": mail(), "headers": {"authorization": "Bearer other"}}, (403, "invalid_api_key")),
        ({"json": mail(), "headers": {"idempotency-key": "k" * 257}}, (400, "invalid_idempotency_key")),
        ({"json": mail(), "url": "/mails"}, (404, "not_found")),
        ({"json": [], "url": "/emails/batch"}, (422, "validation_error")),
        ({"json": [mail()] * 101, "url": "/emails/batch"}, (422, "validation_error")),
    ],
)
def test_bad_calls_are_refused(
    servers: Servers, api: httpx.Client, call: dict[str, Any], expected: tuple[int, str]
) -> None:
    """Each with the status and the name that Resend's documentation gives; nothing is accepted."""
    before = len(servers.mails())
    assert error(api.post(**{"url": "/emails", **call})) == expected
    assert len(servers.mails()) == before


def test_strict_batch_is_all_or_nothing(servers: Servers, api: httpx.Client) -> None:
    """One bad item, and none of the batch is sent; without it all are, in order."""
    servers.configure(ServersConfig(MailConfig(rejected=["bad@example.jp"])))
    before = len(servers.mails())
    batch = [mail("a@example.jp"), mail("bad@example.jp"), mail("c@example.jp")]
    assert error(api.post("/emails/batch", json=batch)) == (422, "validation_error")
    assert len(servers.mails()) == before
    response = api.post("/emails/batch", json=[batch[0], batch[2]])
    assert response.json().keys() == {"data"}
    new = servers.mails()[before:]
    assert [one["id"] for one in response.json()["data"]] == [one.id for one in new]
    assert [one.to for one in new] == [("a@example.jp",), ("c@example.jp",)]


def test_permissive_batch_sends_the_good_ones(servers: Servers, api: httpx.Client) -> None:
    """The bad item is in ``errors`` by its index; the ids belong, in order, to the others."""
    servers.configure(ServersConfig(MailConfig(rejected=["bad@example.jp"])))
    before = len(servers.mails())
    batch = [mail("a@example.jp"), mail("bad@example.jp"), mail("c@example.jp")]
    response = api.post("/emails/batch", json=batch, headers={"x-batch-validation": "permissive"})
    assert response.status_code == 200
    assert [one["index"] for one in response.json()["errors"]] == [1]
    new = servers.mails()[before:]
    assert [one["id"] for one in response.json()["data"]] == [one.id for one in new]
    assert [one.to for one in new] == [("a@example.jp",), ("c@example.jp",)]


def test_same_key_sends_once(servers: Servers, api: httpx.Client) -> None:
    """The same call under the same key is answered the same and sent once; another call under it is 409."""
    before = len(servers.mails())
    key = {"idempotency-key": "same"}
    answers = {api.post("/emails/batch", json=[mail(), mail()], headers=key).text for _ in range(3)}
    assert len(answers) == 1
    assert len(servers.mails()) == before + 2
    assert error(api.post("/emails/batch", json=[mail()], headers=key)) == (409, "invalid_idempotent_request")
    assert error(api.post("/emails", json=mail(), headers=key)) == (409, "invalid_idempotent_request")


def test_same_key_while_running(servers: Servers, api: httpx.Client) -> None:
    """Of three calls at once under one key one is sent; the others are told to come again, and then get its answer."""
    servers.configure(ServersConfig(MailConfig(latency_ms=2000)))
    before = len(servers.mails())

    def call() -> httpx.Response:
        return api.post("/emails", json=mail(), headers={"idempotency-key": "busy"})

    with ThreadPoolExecutor(3) as pool:
        responses = [future.result() for future in [pool.submit(call) for _ in range(3)]]
    good = [one for one in responses if one.status_code == 200]
    assert len(good) == 1
    assert {error(one) for one in responses if one not in good} == {(409, "concurrent_idempotent_requests")}
    assert call().json() == good[0].json()
    assert len(servers.mails()) == before + 1


def test_refused_call_frees_its_key(servers: Servers, api: httpx.Client) -> None:
    """A call that was not accepted has not used up its key."""
    key = {"idempotency-key": "freed"}
    servers.configure(ServersConfig(MailConfig(rejected=["hanako.sato@example.jp"])))
    assert api.post("/emails", json=mail(), headers=key).status_code == 422
    servers.configure(ServersConfig())
    assert api.post("/emails", json=mail(), headers=key).status_code == 200


def test_deferred_once(servers: Servers, api: httpx.Client) -> None:
    """429 with Retry-After for the first call with that address; other calls pass, and so does the next."""
    servers.configure(ServersConfig(MailConfig(rules=[Rule(to="b@example.jp", status=429, retry_after=7, times=1)])))
    assert api.post("/emails", json=mail("a@example.jp")).status_code == 200
    batch = [mail("a@example.jp"), mail("B <b@example.jp>")]
    response = api.post("/emails/batch", json=batch)
    assert error(response) == (429, "rate_limit_exceeded")
    assert (response.headers["retry-after"], response.headers["ratelimit-remaining"]) == ("7", "0")
    assert api.post("/emails/batch", json=batch).status_code == 200


def test_outage_from_a_call_on_for_a_time(servers: Servers, api: httpx.Client) -> None:
    """The first two calls pass, then all fail for two seconds, then all pass."""
    rule = Rule(status=429, name="daily_quota_exceeded", after=2, seconds=2.0)
    servers.configure(ServersConfig(MailConfig(rules=[rule])))
    assert [api.post("/emails", json=mail()).status_code for _ in range(4)] == [200, 200, 429, 429]
    deadline = time.monotonic() + 30
    while (response := api.post("/emails", json=mail())).status_code != 200:
        assert error(response) == (429, "daily_quota_exceeded")
        assert time.monotonic() < deadline


@pytest.mark.parametrize(("accept", "sent"), [(False, 0), (True, 1)])
def test_cut_before_and_after(servers: Servers, api: httpx.Client, accept: bool, sent: int) -> None:
    """A cut connection looks the same either way; only one of them sent the mail. Its key brings the answer back."""
    servers.configure(ServersConfig(MailConfig(rules=[Rule(then="cut", accept=accept, times=1)])))
    before = len(servers.mails())
    key = {"idempotency-key": f"cut-{accept}"}
    with pytest.raises(httpx.RemoteProtocolError):
        api.post("/emails", json=mail(), headers=key)
    assert len(servers.mails()) == before + sent
    assert api.post("/emails", json=mail(), headers=key).status_code == 200
    assert len(servers.mails()) == before + 1


def test_hang_until_the_client_gives_up(servers: Servers, api: httpx.Client) -> None:
    """Nothing comes, and nothing is sent; other calls are answered meanwhile."""
    servers.configure(ServersConfig(MailConfig(rules=[Rule(to="a@example.jp", then="hang")])))
    before = len(servers.mails())
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(api.post, "/emails", json=mail("a@example.jp"), timeout=4)
        assert api.post("/emails", json=mail()).status_code == 200
        assert not hanging.done()
        with pytest.raises(httpx.ReadTimeout):
            hanging.result()
    assert len(servers.mails()) == before + 1


def test_latency(servers: Servers, api: httpx.Client) -> None:
    """Two calls at 100 ms take 0.2 s one after the other."""
    servers.configure(ServersConfig(MailConfig(latency_ms=100)))
    began = time.monotonic()
    for _ in range(2):
        assert api.post("/emails", json=mail()).status_code == 200
    assert 0.2 <= time.monotonic() - began < 20


# The push service


def push(invented: Sample, servers: Servers, number: int = 0, **changed: Any) -> httpx.Response:
    """Push to a device as notifierd is to do; *changed* spoils it: claims, headers, data, body or url."""
    device = invented.rows.devices[number]
    subscription = {"endpoint": device.endpoint, "keys": {"p256dh": device.p256dh, "auth": device.auth}}
    vapid = Vapid02()
    vapid.generate_keys()
    claims = {"aud": servers.push_url, "exp": int(time.time()) + 3600, "sub": "mailto:desk@example.com"}
    data = json.dumps({"title": "期限アラート", "body": "x"}).encode()
    body = WebPusher(subscription).encode(changed.get("data", data), "aes128gcm")["body"]
    headers = {"ttl": "60", "topic": "t", "urgency": "high", "content-encoding": "aes128gcm"}
    headers |= vapid.sign({**claims, **changed.get("claims", {})})
    headers |= changed.get("headers", {})
    sent = {name: value for name, value in headers.items() if value is not None}
    return httpx.post(changed.get("url", device.endpoint), content=changed.get("body", body), headers=sent)


def test_push_reaches_its_device(servers: Servers, invented: Sample) -> None:
    """201 with a Location; the journal has what the browser decrypted and what the headers said."""
    response = push(invented, servers, 1)
    assert response.status_code == 201
    last = servers.pushes()[-1]
    assert response.headers["location"] == f"{servers.push_url}/message/{last.id}"
    assert last.device_id == str(invented.rows.devices[1].id)
    assert last.payload == {"title": "期限アラート", "body": "x"}
    assert (last.ttl, last.topic, last.urgency) == (60, "t", "high")
    assert (last.audience, last.subject) == (servers.push_url, "mailto:desk@example.com")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"headers": {"ttl": None}}, 400),
        ({"headers": {"topic": "t" * 33}}, 400),
        ({"headers": {"urgency": "huge"}}, 400),
        ({"headers": {"content-encoding": "aesgcm"}}, 415),
        ({"headers": {"Authorization": None}}, 401),
        ({"headers": {"Authorization": "vapid t=a.b.c,k=d"}}, 403),
        ({"claims": {"aud": "https://push.example.com"}}, 403),
        ({"claims": {"exp": int(time.time()) + 90_000}}, 403),
        ({"claims": {"exp": int(time.time()) - 60}}, 403),
        ({"data": b"x" * 3994}, 413),
        ({"body": b"x" * 200}, 400),
        ({"data": b"not json"}, 400),
    ],
)
def test_bad_pushes_are_refused(servers: Servers, invented: Sample, changed: dict[str, Any], status: int) -> None:
    """Each rule of RFC 8030, 8188, 8291 and 8292 that a sender may break; nothing reaches a device."""
    before = len(servers.pushes())
    assert push(invented, servers, 1, **changed).status_code == status
    assert len(servers.pushes()) == before


def test_signature_must_fit_the_key(servers: Servers, invented: Sample) -> None:
    """A token with somebody else's k is 403."""
    vapid, other = Vapid02(), Vapid02()
    vapid.generate_keys()
    other.generate_keys()
    claims = {"aud": servers.push_url, "exp": int(time.time()) + 3600, "sub": "mailto:desk@example.com"}
    token = vapid.sign(dict(claims))["Authorization"].partition(",k=")[0]
    key = other.sign(dict(claims))["Authorization"].partition(",k=")[2]
    assert push(invented, servers, 1, headers={"Authorization": f"{token},k={key}"}).status_code == 403
    assert push(invented, servers, 1).status_code == 201


def test_message_for_another_device_cannot_be_read(servers: Servers, invented: Sample) -> None:
    """What is encrypted for one device is of no use to another."""
    assert push(invented, servers, 1, url=invented.rows.devices[2].endpoint).status_code == 400


def test_gone_and_unknown_devices(servers: Servers, invented: Sample) -> None:
    """410 for the device that unsubscribed, 404 for one that never was."""
    gone = next(n for n, one in enumerate(invented.rows.devices) if one.id == invented.gone_device)
    assert push(invented, servers, gone).status_code == 410
    assert push(invented, servers, 1, url=f"{servers.push_url}/push/nobody").status_code == 404


def test_push_trouble_on_order(servers: Servers, invented: Sample) -> None:
    """503 with Retry-After for one device, a cut for another, and the third is served."""
    tokens = [one.token for one in invented.rows.devices]
    rules = [Rule(to=tokens[1], status=503, retry_after=3), Rule(to=tokens[2], then="cut", accept=True)]
    servers.configure(ServersConfig(push=PushConfig(devices=invented.servers().push.devices, rules=rules)))
    before = len(servers.pushes())
    response = push(invented, servers, 1)
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    with pytest.raises(httpx.RemoteProtocolError):
        push(invented, servers, 2)
    assert push(invented, servers, 3).status_code == 201
    assert [one.device_id for one in servers.pushes()[before:]] == [str(invented.rows.devices[n].id) for n in (2, 3)]


# The process


def test_connections_are_kept_alive(servers: Servers, api: httpx.Client) -> None:
    """A hundred calls on one connection, errors among them."""
    with httpx.Client(base_url=servers.mail_url, limits=httpx.Limits(max_connections=1)) as client:
        ports = set()
        for number in range(100):
            with client.stream("POST", "/emails", json=mail(), headers=api.headers if number % 2 else {}) as response:
                ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
                response.read()
    assert len(ports) == 1


def test_restart_goes_on_in_the_same_directory(tmp_path: Path) -> None:
    """A second process counts on from what the first one accepted."""
    for number in (1, 2):
        with running_servers(tmp_path) as servers:
            httpx.post(f"{servers.mail_url}/emails", json=mail(), headers={"authorization": "Bearer re_demo"})
            assert [one.number for one in servers.mails()] == list(range(1, number + 1))
    assert (tmp_path / "servers.log").read_text() == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_die_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    """However the parent ends, its servers see the end of their input, and end without a word."""
    command: list[str | Path] = [sys.executable, "-c", PARENT, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        process = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(how)
            assert parent.wait(PATIENCE) != 0
            assert select.select([process], [], [], PATIENCE)[0], "the servers outlived their parent"
        finally:
            parent.kill()
            os.close(process)
    assert (tmp_path / "servers.log").read_text() == ""


def test_dead_servers_are_reported(tmp_path: Path) -> None:
    """To configure servers that are gone is an error, and no hang."""
    with running_servers(tmp_path) as servers:
        os.kill(servers.pid, signal.SIGKILL)
        with pytest.raises(ServersFailed):
            servers.configure(ServersConfig())


def test_configuration_from_a_file(tmp_path: Path) -> None:
    """By hand: ``--config FILE``, keys left out are at their defaults, and the end of input is the end."""
    (tmp_path / "config.json").write_text('{"mail": {"api_key": "other"}}')
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "notifierd.demo.servers.process",
        "--out",
        tmp_path,
        "--config",
        tmp_path / "config.json",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = json.loads(process.stdout.readline())["mail_url"]
        assert httpx.post(f"{url}/emails", json=mail(), headers={"authorization": "Bearer other"}).status_code == 200
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
