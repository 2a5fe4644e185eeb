"""Resend's requests against resend-local (npm), which another wrote to stand in for it.

It checks keys, and the shape of bodies as Resend's documentation has it. It knows neither idempotency keys nor
permissive batches, takes any address, and keeps no headers.
"""

import shutil
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from notifierd.config.providers import ResendSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blocked, Delivered, Outcome
from notifierd.send._http import open_client
from notifierd.send.mail.resend import Resend
from tests.support.messages import mail
from tests.support.processes import API_KEY, Place, invent
from tests.system.programs import installed, serving

PROGRAM, VERSION = "resend-local", "0.0.7"


@pytest.fixture(scope="module")
def resend_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its own command listens on every address; what that starts can be told not to."""
    app, folder = installed(PROGRAM, VERSION) / "node_modules" / PROGRAM / "dist/app", tmp_path_factory.mktemp("resend")
    shutil.copy(app / "resend-local.sqlite", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:  # it takes 0 for 3000
        port = free.getsockname()[1]
    environ = {
        "HOSTNAME": "127.0.0.1",
        "PORT": str(port),
        "DATABASE_URL": f"file:{folder}/resend-local.sqlite",
        "NEXT_TELEMETRY_DISABLED": "1",
    }
    with serving(["node", "server.js"], r"(Ready) in", app, folder / "log", environ):
        yield f"http://127.0.0.1:{port}"


async def send(base_url: str, *messages: Mail, api_key: str = API_KEY) -> list[Outcome]:
    async with open_client(width=1) as client:
        sender = Resend(client, ResendSettings(api_key=api_key, base_url=base_url), now=lambda: datetime.now(UTC))
        return await sender.send(messages, sender.encode(messages), "a key of the tests")


def kept(resend_local: str) -> dict[str, dict[str, Any]]:
    """The mails that it has, by their id."""
    url = f"{resend_local}/dashboard-api/emails"
    emails = httpx.get(url, params={"limit": 1000}, trust_env=False).raise_for_status().json()["emails"]
    return {email["id"]: email for email in emails}


def ids(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [outcome.provider_message_id for outcome in outcomes if isinstance(outcome, Delivered)]


@pytest.mark.parametrize("count", [1, 3, 100])
async def test_mails_arrive_as_they_were_meant_and_are_known_by_their_ids(resend_local: str, count: int) -> None:
    sent = [mail(n, reply_to="ask@example.jp", text=f"本日が期限 {n}") for n in range(count)]
    found = ids(await send(resend_local, *sent))
    assert len(found) == count
    emails = kept(resend_local)
    for message, key in zip(sent, found, strict=True):
        email = emails[str(key)]
        assert (email["from"], email["to"]) == ("keikakun <no-reply@example.jp>", [str(message.to)])
        assert (email["subject"], email["text"], email["html"]) == (message.subject, message.text, message.html)


async def test_a_wrong_key_is_our_trouble_and_nobodys_failure(resend_local: str) -> None:
    assert await send(resend_local, mail(), api_key="wrong") == [Blocked("blocked:401")]


def test_a_run_sends_each_mail_once(resend_local: str, place: Place) -> None:
    """Two offices with 101 staff each: a batch of 100 and a single mail for each."""
    before = kept(resend_local).keys()
    rows = invent(2, staff=101)
    place.load(rows)
    place.configure(**{"email.resend": {"api_key": API_KEY, "base_url": resend_local}})
    assert place.once().report["email"]["sent"] == 202
    new = [email for key, email in kept(resend_local).items() if key not in before]
    assert Counter(to for email in new for to in email["to"]) == Counter(member.email for member in rows.staff)
