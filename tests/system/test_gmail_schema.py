"""Gmail's requests against what Google publishes: its discovery document, and its own reader of assertions."""

import json
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.auth import jwt

from notifierd.model.outcome import Delivered
from notifierd.send._http import open_client
from notifierd.send.mail.gmail import SCOPE, Gmail
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


async def test_googles_own_reader_accepts_the_assertion() -> None:
    (assertion,) = (await sent()).tokens
    public = private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(assertion, public, audience="https://oauth2.googleapis.com/token")
    assert claims["iss"] == ACCOUNT
