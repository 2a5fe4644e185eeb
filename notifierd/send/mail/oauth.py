"""OAuth 2.0 for a service account that acts for a user: RFC 7523, as Google implements it.

https://developers.google.com/identity/protocols/oauth2/service-account#httprest.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import urlencode

import trio
from attrs import define, field, frozen
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from py_vapid.utils import b64urlencode

from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, meaning, understand
from notifierd.send._http import Client
from notifierd.send._words import About

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

ASSERTION_LIFE = timedelta(hours=1)
"""The longest life of an assertion that Google allows."""

EARLY = timedelta(minutes=5)
"""How long before its expiry a token is replaced, so that it outlives every call in flight."""

TOKEN_SECONDS = 10.0
"""Seconds to get a token. This limit is separate from the caller's: a mail that is cut off here was certainly not sent,
but one that the caller cuts off may have been."""


@frozen
class Token:
    """An access token that is valid until *expires*, *life* after it was requested."""

    value: str = field(repr=False)
    expires: datetime
    life: timedelta

    def is_good(self, now: datetime) -> bool:
        # More than a whole life is left if the clock was set back.
        return EARLY < self.expires - now <= self.life


@define(eq=False)
class ServiceAccount:
    """Provides access tokens for *user* and *scope*.

    It requests one token at a time, and reuses it until shortly before its expiry.

    Attributes:
        key: the private key of the account *email*.
        key_id: the id of that key; empty if unknown.
    """

    client: Client
    now: Callable[[], datetime]
    email: str
    key: rsa.RSAPrivateKey = field(repr=False)
    key_id: str
    url: str
    user: str = field(repr=False)
    scope: str
    _lock: trio.Lock = field(factory=trio.Lock, init=False)
    _token: Token | None = field(default=None, init=False)

    async def token(self) -> str | Blocked | Deferred:
        """Return a token, or why there is none."""
        with trio.move_on_after(TOKEN_SECONDS):
            async with self._lock:
                if self._token is None or not self._token.is_good(self.now()):
                    found = await self._fetch()
                    if not isinstance(found, Token):
                        return found
                    self._token = found
                return self._token.value
        return Deferred(Reason.TOKEN.before("timeout"), blame=Blame.PROVIDER)

    def forget(self, token: str) -> None:
        """Request another token next time: *token* was rejected."""
        if self._token is not None and self._token.value == token:
            self._token = None

    async def _fetch(self) -> Token | Blocked | Deferred:
        now = self.now()
        body = urlencode({"grant_type": GRANT, "assertion": self._assertion(now)}).encode()
        call = self.client.post(self.url, body, {"Content-Type": "application/x-www-form-urlencoded"})
        found = await understand(call, lambda answer: _read(answer, now), None)
        if found is None:
            return Deferred(Reason.TOKEN.before("unclear"), blame=Blame.PROVIDER)
        if isinstance(found, Token | Blocked):
            return found
        # Whatever happened, the request carried no mail, so no message is to blame.
        blame = Blame.PATH if isinstance(found, Deferred) and found.blame is Blame.PATH else Blame.PROVIDER
        return Deferred(Reason.TOKEN.before(found.reason), found.retry_after, blame)

    def _assertion(self, now: datetime) -> str:
        """Return the signed JWT that authenticates the account: RFC 7515, section 3.1, with RS256 of RFC 7518."""
        header = {"alg": "RS256", "typ": "JWT"} | ({"kid": self.key_id} if self.key_id else {})
        issued = int(now.timestamp())
        claims = {
            "iss": self.email,
            "sub": self.user,
            "scope": self.scope,
            "aud": self.url,
            "iat": issued,
            "exp": issued + int(ASSERTION_LIFE.total_seconds()),
        }
        signed = ".".join(b64urlencode(json.dumps(part).encode()) for part in (header, claims))
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{b64urlencode(signature)}"


def load_key(pem: str) -> rsa.RSAPrivateKey:
    """Parse a service account's private key.

    Raises:
        ValueError: it is not an RSA key in PEM without a password. The error does not quote the text.
    """
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:  # TypeError: a key with a password
        raise ValueError("not a private key") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")  # noqa: TRY004 - the value is wrong, not our types
    return key


def _read(answer: Answer, now: datetime) -> Token | Blocked | Deferred | Unknown | None:
    """Return the token in an answer, or why there is none; None if the answer is unclear.

    RFC 6749, section 5.2: an ``error`` such as invalid_grant or unauthorized_client is about our account.
    """
    found, wait = answer.json(), answer.retry_after(now)
    match meaning(answer.status, About.NOTHING if isinstance(get(found, "error"), str) else None, wait):
        case Delivered():
            return _token(found, now)
        case Blocked(reason) | Rejected(reason):
            return Blocked(Reason.TOKEN.before(reason), wait)
        case outcome:
            return outcome


def _token(found: object, now: datetime) -> Token | None:
    if not isinstance(found, dict):
        return None
    value, seconds = found.get("access_token"), found.get("expires_in")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value) or not isinstance(seconds, int):
        return None
    life = timedelta(seconds=min(max(seconds, 0), 86_400))
    return Token(value, now + life, life)


_TOKEN = re.compile(r"[!-~]+")
