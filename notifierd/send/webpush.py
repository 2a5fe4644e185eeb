"""Web Push: RFC 8030 (protocol), 8188 and 8291 (encryption), 8292 (VAPID).

Of pywebpush, only ``WebPusher.encode`` is used. ``webpush()`` blocks, has no timeout, posts to any address, and writes
into the claims that it is given, so that the next origin gets the previous origin's ``aud``.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import UUID

from notifierd.config.settings import PushSettings
from notifierd.model.imports import standing_in
from notifierd.model.message import PUSH_SIZES, Push
from notifierd.model.office import Device
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, meaning, outcomes
from notifierd.send._http import Client, Url, parse_url
from notifierd.send._words import About

if TYPE_CHECKING:
    from pywebpush import WebPusher

    from notifierd.send.vapid import Vapid

WNS = ".notify.windows.com"

REFUSALS = 5
"""Rule: if devices of this many offices were refused since a message was accepted, the push service rejects our key and
not the devices. Offices are counted, not devices, because one person can subscribe any number of devices under another
key."""

WNS_LOST = {str(reason): reason for reason in (Reason.DROPPED, Reason.CHANNELTHROTTLED)}
"""Values of X-WNS-NotificationStatus for a message that was dropped, even with a 2xx: the device rejects it, or got too
many. https://learn.microsoft.com/windows/apps/develop/notifications/push-notifications/push-request-response-headers"""


class WebPush:
    """One call for each device; one destination for each push service's origin."""

    name = "webpush"
    max_batch = 1
    honours_keys = False

    def __init__(self, client: Client, settings: PushSettings, *, subject: str, now: Callable[[], datetime]) -> None:
        self._client, self._settings, self._subject, self._now = client, settings, subject, now
        self._refused: dict[str, set[UUID]] = {}  # by origin: the offices refused since it last accepted a message
        self._taking: set[str] = set()  # the origins that have accepted a message
        self._foreign: set[UUID] = set()  # offices with a device that was refused while others were accepted

    @cached_property
    def _vapid(self) -> "Vapid":
        from notifierd.send.vapid import Vapid  # noqa: PLC0415 - only pushes need cryptography, which takes 8 MB

        return Vapid(self._settings.vapid_private_key, self._subject)

    def destination(self, message: Push) -> str:
        url = self._permitted(message.device.endpoint)
        return url.origin if isinstance(url, Url) else Reason.ENDPOINT_REFUSED.value

    def encode(self, messages: Sequence[Push]) -> bytes:
        """Return the plaintext; `send` encrypts it, each time with a new key."""
        (message,) = messages
        return padded(message.payload)

    async def send(self, messages: Sequence[Push], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - push services know no keys
        (message,) = messages
        url = self._permitted(message.device.endpoint)
        if isinstance(url, Rejected):
            return [url]
        encrypted = encrypt(message.device, body)
        if encrypted is None:
            return [Rejected(Reason.BAD_SUBSCRIPTION, asked=False)]
        call = self._client.post(message.device.endpoint, encrypted, self._headers(message, url))
        return await outcomes(call, 1, lambda answer: [self._read(answer, url, message.office_id)])

    def _read(self, answer: Answer, url: Url, office: UUID) -> Outcome:
        outcome = self._outcome(answer, url)
        if isinstance(outcome, Delivered):
            self._refused.pop(url.origin, None)
            self._taking.add(url.origin)
        if isinstance(outcome, Blocked) and answer.status in {401, 403}:
            return self._refusal(outcome, answer.status, url.origin, office)
        return outcome

    def _headers(self, message: Push, url: Url) -> dict[str, str]:
        headers = {
            "Authorization": self._vapid.authorization(url.origin, self._now()),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(message.ttl),
            "Topic": message.topic,
            "Urgency": message.urgency,
        }
        if url.host.endswith(WNS):  # 400 if the policy contradicts TTL (web-push-libs/pywebpush#162)
            headers |= {"X-WNS-Type": "wns/raw", "X-WNS-Cache-Policy": "cache" if message.ttl else "no-cache"}
        return headers

    def _outcome(self, answer: Answer, url: Url) -> Outcome:
        """Return what an answer means. Push services share no format of errors, and some of FCM's are HTML pages.

        So a status that RFC 8030 does not name costs only one attempt, as long as other messages are accepted. An HTML
        page with a 2xx, 3xx or 5xx is not from the push service. A page with a 404 is from a front end
        (GoogleChromeLabs/web-push-codelab#87): FCM reports a missing device in plain text (web-push-libs/web-push#940).
        """
        status, wait = answer.status, answer.retry_after(self._now())
        if url.host.endswith(WNS):
            fate = answer.headers.get("x-wns-notificationstatus", "").lower()
            if 200 <= status < 300 and fate in WNS_LOST:  # noqa: PLR2004 - RFC 9110, section 15.3
                return Deferred(WNS_LOST[fate].of(status), wait, Blame.MESSAGE)
            if status == 406:  # noqa: PLR2004 - WNS' form of 429 (microsoft/microsoft-ui-xaml#8091)
                return Deferred(Reason.RATE_LIMITED.of(406), wait, Blame.PROVIDER)
        match status, _is_page(answer):
            case (404, False) | (410, _):  # RFC 8030, section 7.3
                return Gone(Reason.GONE.of(status))
            case _, True if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
                return Unknown(Reason.ANSWER_UNCLEAR)
            case 413, _:  # RFC 8030, section 7.2
                return Rejected(Reason.REJECTED.of(413))
            case ((401 | 402 | 403 | 407 | 408 | 420 | 425 | 429 | 451), _):
                return meaning(status, About.NOTHING, wait)
            case _, is_page if 300 <= status < 500 and not (is_page and status < 400):  # noqa: PLR2004 - RFC 9110, sections 15.4 and 15.5
                return Deferred(Reason.REFUSED.of(status), wait)
            case _, is_page:
                return meaning(status, None if is_page else About.NOTHING, wait)

    def _refusal(self, outcome: Blocked, status: int, origin: str, office: UUID) -> Outcome:
        """Return whether a push service rejects our key, or a device that was subscribed under another application key.

        The service answers 401 or 403 to both (web-push-libs/web-push#457), and a single device must not stop all
        others. If other messages are accepted, the refusal is about the device. If REFUSALS offices in a row were
        refused, it is about us. Before the first message is accepted, the cause is unknown, and the refusal does not
        count against the device.
        """
        refused = self._refused.setdefault(origin, set())
        if office not in self._foreign:
            refused.add(office)
        if len(refused) >= REFUSALS:
            return outcome
        blame = Blame.UNCLEAR
        if origin in self._taking:
            blame = Blame.MESSAGE
            self._foreign.add(office)
        return Deferred(Reason.DEVICE_REFUSED.of(status), outcome.retry_after, blame)

    def _permitted(self, endpoint: str) -> Url | Rejected:
        """Return the endpoint if we may call it: it comes from a browser, and could lead anywhere."""
        url, anywhere = parse_url(endpoint), self._settings.allow_private_addresses
        if url is None:
            return Rejected(Reason.ENDPOINT_REFUSED.of("malformed_url"))
        if not anywhere and url.scheme != "https":
            return Rejected(Reason.ENDPOINT_REFUSED.of("not_https"))
        if url.has_userinfo:
            return Rejected(Reason.ENDPOINT_REFUSED.of("userinfo"))
        if not any(_matches(url.host, host) for host in self._settings.allowed_hosts):
            return Rejected(Reason.ENDPOINT_REFUSED.of("host_not_allowed"))
        if not anywhere and url.port != 443:  # noqa: PLR2004 - https
            return Rejected(Reason.ENDPOINT_REFUSED.of("port_not_443"))
        return url


def _is_page(answer: Answer) -> bool:
    """Return whether an answer is an HTML page."""
    return answer.body[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _matches(host: str, allowed: str) -> bool:
    return host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed


def load() -> None:
    """Import what only pushes need: pywebpush and cryptography, which take 30 ms and 7 MB."""
    import_module("notifierd.send.route.exchange")
    import_module("notifierd.send.vapid")
    _pusher()


@cache
def _pusher() -> Callable[[Mapping[str, object]], "WebPusher"]:
    """Import pywebpush without aiohttp and requests, by which it would send: they take 0.2 s and 13 MB."""
    with standing_in("aiohttp", "requests"):
        from pywebpush import WebPusher  # noqa: PLC0415 - only pushes need it: see `load`

    pusher: Callable[[Mapping[str, object]], WebPusher] = WebPusher
    return pusher


def padded(payload: bytes) -> bytes:
    """Return *payload*, a JSON text, with spaces up to the next of PUSH_SIZES; a longer one is returned unchanged.

    RFC 8188, section 2, has padding within the record for this, but http_ece, which pywebpush encrypts with, writes the
    delimiter directly after the text. Spaces after a JSON text have no meaning (RFC 8259, section 2).
    """
    return payload.ljust(next((size for size in PUSH_SIZES if size >= len(payload)), 0))


def encrypt(device: Device, data: bytes) -> bytes | None:
    """Encrypt *data* for *device* (RFC 8291); None if its keys are invalid: section 3.2 gives their lengths."""
    try:
        lengths = [len(_decoded(text)) for text in (device.p256dh, device.auth)]
        if lengths != [65, 16]:
            return None
        keys = {"p256dh": device.p256dh, "auth": device.auth}
        encrypted: bytes = _pusher()({"endpoint": device.endpoint, "keys": keys}).encode(data, "aes128gcm")["body"]
    except ValueError:  # not base64, or not a point on the curve
        return None
    return encrypted


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.rstrip("=").translate(_STANDARD) + "=" * (-len(text.rstrip("=")) % 4), validate=True)


_STANDARD = str.maketrans("-_", "+/")
