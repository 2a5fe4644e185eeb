"""Gmail's requests against what Google publishes: its discovery document, and its own reader of assertions."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.auth import jwt
from trio.testing import MockClock

from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.outcome import Delivered
from notifierd.send._http import open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback.gmail import SCOPE as READING
from notifierd.send.feedback.gmail import GmailFeedback
from notifierd.send.mail.gmail import SCOPE, Gmail
from tests.support.feedback_servers.fake import transport
from tests.support.feedback_servers.gmail import FakeGmail
from tests.support.google_api import ACCOUNT, Google, gmail_settings, private_key
from tests.support.messages import mail


async def sent() -> Google:
    google = Google()
    async with open_client(width=1, transport=httpx.MockTransport(google)) as client:
        sender = Gmail(client, gmail_settings(), now=lambda: datetime.now(UTC))
        assert await sender.send([mail()], sender.encode([mail()]), "") == [Delivered("m1")]
    return google


async def test_a_mail_is_sent_as_the_discovery_document_has_it() -> None:
    text = files("googleapiclient").joinpath("discovery_cache/documents/gmail.v1.json").read_text()
    document: dict[str, Any] = json.loads(text)
    method = document["resources"]["users"]["resources"]["messages"]["methods"]["send"]
    (request,) = (await sent()).mails
    assert request.method == method["httpMethod"]
    assert str(request.url) == document["baseUrl"] + method["path"].replace("{userId}", "me")
    assert SCOPE in method["scopes"]
    schema = document["schemas"][method["request"]["$ref"]]["properties"]
    body = json.loads(request.content)
    assert body.keys() <= schema.keys()
    assert [name for name in schema if method["id"] in schema[name].get("annotations", {}).get("required", [])] == list(
        body
    )
    assert (schema["raw"]["type"], schema["raw"]["format"]) == ("string", "byte")


async def test_bounce_mails_are_asked_for_as_the_discovery_document_has_it(autojump_clock: MockClock) -> None:
    """The requests' parameters, and the answers of the fake that other tests ask."""
    fake, at = FakeGmail(page=1), datetime(2026, 11, 24, tzinfo=UTC)
    for number in (1, 2):
        fake.add(UUID(int=number), "", "taro@example.jp", MailStatus.BOUNCED, "", at)
    settings = gmail_settings(token_url="https://gmail.googleapis.com/token", feedback=True)
    requests: list[httpx.Request] = []
    answers: list[Any] = []
    inner = transport(fake).handler

    async def note(request: httpx.Request) -> httpx.Response:
        response = inner(request)
        assert isinstance(response, httpx.Response)
        if request.method == "GET":
            requests.append(request)
            answers.append(response.json())
        return response

    async def keep(_verdicts: Sequence[Verdict]) -> None:
        pass

    async with open_client(width=1, transport=httpx.MockTransport(note)) as client:
        look = Look(at - timedelta(hours=1), at + timedelta(hours=1))
        assert await GmailFeedback(client, settings, now=lambda: at).look(look, keep) == Looked()
    text = files("googleapiclient").joinpath("discovery_cache/documents/gmail.v1.json").read_text()
    document: dict[str, Any] = json.loads(text)
    methods = document["resources"]["users"]["resources"]["messages"]["methods"]
    asked = ["list" if request.url.path.endswith("/messages") else "get" for request in requests]
    assert asked == ["list", "get", "list", "get"]
    for name, request, answer in zip(asked, requests, answers, strict=True):
        method = methods[name]
        path = document["baseUrl"] + method["path"].replace("{userId}", "me").replace("/{id}", "")
        assert str(request.url).startswith(path)
        assert READING in method["scopes"]
        for parameter, value in request.url.params.items():
            allowed = method["parameters"][parameter]
            assert allowed["location"] == "query"
            assert value in allowed.get("enum", [value])
            assert allowed["type"] != "boolean" or value in {"true", "false"}
            assert allowed["type"] != "integer" or value.isdigit()
        schema = document["schemas"][method["response"]["$ref"]]["properties"]
        assert answer.keys() <= schema.keys()


async def test_googles_own_reader_accepts_the_assertion() -> None:
    (assertion,) = (await sent()).tokens
    public = private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(assertion, public, audience="https://oauth2.googleapis.com/token")
    assert claims["iss"] == ACCOUNT
