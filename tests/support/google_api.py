"""Google's side: a service account, and who gives tokens for it and takes its mails."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import httpx
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from notifierd.config.providers import GmailSettings

ACCOUNT = "notifierd@example.iam.gserviceaccount.com"
USER = "no-reply@example.jp"


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def account_json(**changes: Any) -> str:
    pem = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({"client_email": ACCOUNT, "private_key": pem, "private_key_id": "key-1", **changes})


def gmail_settings(**changes: Any) -> GmailSettings:
    return GmailSettings(**{"service_account": account_json(), "user": USER, **changes})


def google_error(status: int, reason: str, text: str = "taro1@example.jp is odd", **headers: str) -> httpx.Response:
    """As https://developers.google.com/gmail/api/guides/handle-errors shows it."""
    found = {"errors": [{"domain": "usageLimits", "reason": reason, "message": text}], "code": status, "message": text}
    return httpx.Response(status, json={"error": found}, headers=headers)


@define
class Google:
    """Gives tokens t1, t2 and so on, and takes mails with the last of them.

    Attributes:
        tokens: the assertions that were sent for tokens.
        mails: the requests that brought a mail.
        token, send: what else to answer, if not None.
    """

    tokens: list[str] = field(factory=list)
    mails: list[httpx.Request] = field(factory=list)
    token: Callable[[httpx.Request], httpx.Response | None] = field(default=lambda _request: None)
    send: Callable[[httpx.Request], httpx.Response | None] = field(default=lambda _request: None)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "oauth2.googleapis.com":
            (assertion,) = parse_qs(request.content.decode())["assertion"]
            self.tokens.append(assertion)
            given = {"access_token": f"t{len(self.tokens)}", "expires_in": 3599, "token_type": "Bearer"}
            return self.token(request) or httpx.Response(200, json=given)
        self.mails.append(request)
        if request.headers["authorization"] != f"Bearer t{len(self.tokens)}":
            return google_error(401, "authError")
        return self.send(request) or httpx.Response(200, json={"id": f"m{len(self.mails)}", "labelIds": ["SENT"]})
