"""A push service (RFC 8030) that is also the browser: it verifies the sender's signature and decrypts messages."""

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import http_ece
import trio
from attrs import define, field, frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from notifierd.demo.servers.http11 import Answer, Request
from notifierd.demo.servers.journal import Journal
from notifierd.demo.servers.trouble import PushConfig, PushDevice, Script

_MAX_BODY: Final = 4096  # a push service must accept this much (RFC 8030 section 7.2), and most accept no more
_MAX_TOKEN_LIFE_SECONDS: Final = 24 * 3600  # RFC 8292 section 2
_URGENCIES: Final = ("", "very-low", "low", "normal", "high")
_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]{0,32}")
_P256_BYTES: Final = 32


@frozen
class AcceptedPush:
    """A line of ``pushes/accepted.jsonl``: a message that reached a device.

    Attributes:
        number: counts from 1, in the order of acceptance.
        id: the last part of the ``Location`` in the answer.
        device_id: the device that it was for.
        payload: the decrypted JSON.
        ttl: in seconds.
        topic: "" without one; so is *urgency*.
        audience: the claim ``aud`` of the VAPID token.
        subject: its claim ``sub``.
        time: when it was accepted, RFC 3339 in UTC.
    """

    number: int
    id: str
    device_id: str
    payload: Any
    ttl: int
    topic: str
    urgency: str
    audience: str
    subject: str
    time: str


@frozen
class Head:
    """The contents of a push's headers.

    Attributes:
        ttl: in seconds.
        topic: "" without one; so is *urgency*.
        claims: those of the VAPID token.
        key: the public key that verifies the token, as in the header.
    """

    ttl: int
    topic: str
    urgency: str
    claims: Mapping[str, Any]
    key: str


class Refused(Exception):
    """The request is answered with *status*; the text is for the reader of the test's output."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@define
class PushService:
    """The service's state: its devices, accepted messages, and the rules' counters."""

    _origin: str
    _config: PushConfig
    _script: Script
    _journal: Journal[AcceptedPush]
    _devices: dict[str, PushDevice] = field(factory=dict)

    @classmethod
    def open(cls, directory: Path, origin: str) -> Self:
        """Serve endpoints below *origin*; keep accepted messages in *directory*, continuing after what is in it."""
        config = PushConfig()
        return cls(origin, config, Script(config.rules, time.monotonic), Journal.open(directory, AcceptedPush))

    def configure(self, config: PushConfig) -> None:
        """Change the behaviour from the next call on; the rules start again."""
        self._config = config
        self._script = Script(config.rules, time.monotonic)
        self._devices = {device.token: device for device in config.devices}

    async def handle(self, request: Request) -> Answer | None:
        """Answer one call; None cuts the connection."""
        if (request.method, request.path) == ("GET", "/_received"):
            return Answer(200, self._journal.told())
        began = self._journal.begin()
        answer = await self._answer(request)
        self._journal.call(request.path, None if answer is None else answer.status, began)
        return answer

    async def _answer(self, request: Request) -> Answer | None:
        token = request.path.removeprefix("/push/")
        rule = self._script.strike({token})
        if rule is None:
            return await self._accept(request, token)
        if rule.accept:
            await self._accept(request, token)
        if rule.then == "answer":
            headers = {} if rule.retry_after is None else {"retry-after": str(rule.retry_after)}
            return Answer(rule.status, {"reason": rule.name or "As ordered."}, headers)
        if rule.then == "hang":
            await request.hung_up()
        return None

    async def _accept(self, request: Request, token: str) -> Answer:
        await trio.sleep(self._config.latency_ms / 1000)
        try:
            push = self._push(request, token)
        except Refused as refused:
            return Answer(refused.status, {"reason": str(refused)})
        self._journal.add(push)
        return Answer(201, headers={"location": f"{self._origin}/message/{push.id}", "ttl": str(push.ttl)})

    def _push(self, request: Request, token: str) -> AcceptedPush:
        if token in self._config.gone:
            raise Refused(410, "the subscription is gone")
        device = self._devices.get(token)
        if device is None:
            raise Refused(404, "no such subscription")
        head = read_head(request, self._origin)
        return AcceptedPush(
            number=self._journal.count + 1,
            id=str(uuid.uuid4()),
            device_id=device.id,
            payload=_payload(request.body, device),
            ttl=head.ttl,
            topic=head.topic,
            urgency=head.urgency,
            audience=head.claims["aud"],
            subject=head.claims["sub"],
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


def read_head(request: Request, origin: str) -> Head:
    """Check what every push service checks of a push, except its receiver and its text.

    Raises:
        Refused: something is wrong.
    """
    headers = request.headers
    if request.method != "POST":
        raise Refused(405, "only POST")
    ttl = headers.get("ttl", "")
    if not (ttl.isascii() and ttl.isdigit()):
        raise Refused(400, "TTL must be a number of seconds")  # RFC 8030 section 5.2
    topic = headers.get("topic", "")
    if not _TOPIC.fullmatch(topic):
        raise Refused(400, "Topic must be at most 32 characters of base64url")  # RFC 8030 section 5.4
    urgency = headers.get("urgency", "")
    if urgency not in _URGENCIES:
        raise Refused(400, "Urgency must be very-low, low, normal or high")  # RFC 8030 section 5.3
    claims, key = _token(headers.get("authorization", ""), origin)
    if len(request.body) > _MAX_BODY:
        raise Refused(413, "the body is longer than 4096 bytes")
    if headers.get("content-encoding") != "aes128gcm":
        raise Refused(415, "Content-Encoding must be aes128gcm")
    return Head(int(ttl), topic, urgency, claims, key)


def _token(authorization: str, origin: str) -> tuple[dict[str, Any], str]:
    """Return the claims of a valid VAPID token (RFC 8292), and the public key.

    Raises:
        Refused: 401 without a token, 403 with an invalid one.
    """
    scheme, _, rest = authorization.partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if scheme.lower() != "vapid" or not {"t", "k"} <= parts.keys():
        raise Refused(401, "the scheme must be vapid, with t and k")
    try:
        signed, _, signature = parts["t"].rpartition(".")
        header, claims = (json.loads(_unbase64(part)) for part in signed.split("."))
        if header.get("alg") != "ES256":
            raise Refused(403, "alg must be ES256")
        raw = _unbase64(signature)
        r, s = (int.from_bytes(half, "big") for half in (raw[:_P256_BYTES], raw[_P256_BYTES:]))
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _unbase64(parts["k"]))
        key.verify(encode_dss_signature(r, s), signed.encode(), ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature) as error:
        raise Refused(403, "the token is not signed by k") from error
    if claims.get("aud") != origin:
        raise Refused(403, "aud is not the endpoint's origin")
    life = claims.get("exp", 0) - time.time()
    if not 0 < life <= _MAX_TOKEN_LIFE_SECONDS:
        raise Refused(403, "exp must be within the next 24 hours")
    if urlsplit(claims.get("sub", "")).scheme not in ("mailto", "https"):
        raise Refused(403, "sub must be a mailto: or https: URI")
    return dict(claims), parts["k"]


def _payload(body: bytes, device: PushDevice) -> Any:  # noqa: ANN401 - JSON
    scalar = int.from_bytes(_unbase64(device.private_key), "big")
    key = ec.derive_private_key(scalar, ec.SECP256R1())
    try:
        text = http_ece.decrypt(body, private_key=key, auth_secret=_unbase64(device.auth), version="aes128gcm")
        return json.loads(text)
    except (http_ece.ECEException, ValueError) as error:
        raise Refused(400, "the device could not decrypt this, or found no JSON in it") from error


def _unbase64(text: str) -> bytes:
    """Decode base64url without its padding."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(text) from error
