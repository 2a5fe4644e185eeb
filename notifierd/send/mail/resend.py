"""Resend: https://resend.com/docs/api-reference/emails/send-email and .../send-batch-emails."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime

import orjson

from notifierd.config.providers import ResendSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Delivered, Outcome, Probe, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, for_each, get, meaning, message_id, outcomes, probed, text
from notifierd.send._http import Client
from notifierd.send._words import About, about, about_field

IN_PROGRESS_SECONDS = 2.0
"""Seconds to wait while Resend still processes the same call. Resend documents no number."""

SENDING_ONLY = "restricted_api_key"
"""The error for a key that may only send, on all other endpoints."""

OURS = frozenset(
    {
        *("missing_api_key", "invalid_api_key", SENDING_ONLY, "suspended_api_key", "invalid_access"),
        *("invalid_from_address", "invalid_region", "invalid_idempotency_key", "security_error"),
    }
)
"""Errors that are not about a message, with any status (https://resend.com/docs/api-reference/errors, and for
``suspended_api_key`` https://github.com/resend/resend-node/blob/canary/src/interfaces.ts)."""

OURS_IF_REFUSED = frozenset({"not_found", "method_not_allowed"})
"""Errors about our base_url, if they come with a 4xx (the same page)."""

QUOTAS = frozenset({"daily_quota_exceeded", "monthly_quota_exceeded"})
"""Errors with status 429 that waiting does not clear (the same page)."""

FIELD = re.compile(r"\b(?:invalid|missing) `(\w{1,40})` field", re.IGNORECASE)
"""How an error names the field that it is about: "Invalid `to` field" (resend/resend-python#65)."""


class Resend:
    """One mail by ``POST /emails``, several by ``POST /emails/batch`` in permissive mode.

    Strict mode, the default, rejects a whole batch for one bad item
    (https://resend.com/docs/dashboard/emails/batch-validation-modes). Both endpoints remember an idempotency key for 24
    hours, for one HTTP call (https://resend.com/docs/dashboard/emails/idempotency-keys).

    Resend rejects encoded words in ``from``, and a quoted name in other addresses
    (https://github.com/anymail/django-anymail/blob/main/anymail/backends/resend.py).
    """

    name = "resend"
    max_batch = 100
    honours_keys = True

    def __init__(self, client: Client, settings: ResendSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url = settings.base_url
        self._headers = {"Authorization": f"Bearer {settings.api_key}", "Content-Type": "application/json"}

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one account, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        if not 1 <= len(messages) <= self.max_batch:
            raise ValueError(f"{len(messages)} mails in one call")
        items = [_item(mail) for mail in messages]
        return orjson.dumps(items if len(items) > 1 else items[0], option=orjson.OPT_SORT_KEYS)

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:
        headers = {**self._headers, "Idempotency-Key": idempotency_key}
        path = "/emails"
        if len(messages) > 1:
            path, headers["x-batch-validation"] = "/emails/batch", "permissive"
        call = self._client.post(self._url + path, body, headers)
        return await outcomes(call, len(messages), lambda answer: self._read(answer, len(messages)))

    async def probe(self) -> Probe:
        """Ask for the domains: https://resend.com/docs/api-reference/domains/list-domains.

        A key that may only send gets 401 `restricted_api_key`; an unknown key gets another error
        (https://resend.com/docs/api-reference/errors). So this answer proves the key, too.
        """
        return await probed("GET /domains", self._client.get(f"{self._url}/domains", self._headers), self._read_domains)

    def _read_domains(self, answer: Answer) -> tuple[Outcome, tuple[str, ...]]:
        said = answer.json()
        if answer.status == 401 and text(get(said, "name")).lower() == SENDING_ONLY:  # noqa: PLR2004 - Unauthorized
            return Delivered(), ()
        outcome, domains = self._of_call(answer, said), get(said, "data")
        if not isinstance(outcome, Delivered):
            return outcome, ()
        if not isinstance(domains, list):
            return Unknown(Reason.ANSWER_UNCLEAR), ()
        verified = any(get(domain, "status") == "verified" for domain in domains)
        return outcome, ("no domain is verified, so mail goes to the account's own address only",) * (not verified)

    def _read(self, answer: Answer, count: int) -> list[Outcome]:
        said = answer.json()
        outcome = self._of_call(answer, said)
        return _of_items(said, count) if isinstance(outcome, Delivered) else for_each(outcome, count)

    def _of_call(self, answer: Answer, said: object) -> Outcome:
        """Return the outcome of the call as a whole: https://resend.com/docs/api-reference/errors."""
        status, name, wait = answer.status, text(get(said, "name")).lower(), answer.retry_after(self._now())
        match status, name:
            case 409, "concurrent_idempotent_requests":
                return Unknown(Reason.IN_PROGRESS.of(409), wait or IN_PROGRESS_SECONDS)
            case 409, "invalid_idempotent_request":
                return Unknown(Reason.KEY_CONFLICT.of(409), key_usable=False)
            case _ if 400 <= status < 500 and name in OURS_IF_REFUSED:  # noqa: PLR2004 - the client's errors
                return Blocked(Reason.BLOCKED.of(status), wait)
        return meaning(status, _about(said, name), wait)


def _about(said: object, name: str) -> About | None:
    """Return what an error is about; None if the answer is not Resend's.

    An unknown API key gets 400 or 401, `validation_error`, "API key is invalid" (the same page): the name does not
    tell, but the text does.
    """
    message = get(said, "message")
    if not isinstance(message, str) or not (name or isinstance(get(said, "statusCode"), int)):
        return None
    if name in QUOTAS:
        return About.QUOTA
    if name in OURS:
        return About.US
    return _about_words(f"{name.replace('_', ' ')}: {message}")  # an undocumented name may tell: expired_api_key, say


def _about_words(words: str) -> About:
    field = FIELD.search(words[:1000])
    return (about_field(field[1]) or About.NOTHING) if field else about(words)


def _item(mail: Mail) -> dict[str, object]:
    item: dict[str, object] = {
        "from": mail.sender.quoted(),
        "to": [mail.to],
        "subject": mail.subject,
        "html": mail.html,
        "text": mail.text,
        "headers": dict(mail.headers),
    }
    return {**item, "reply_to": mail.reply_to.encoded()} if mail.reply_to else item


def _of_items(found: object, count: int) -> list[Outcome]:
    """Return the outcome of each item of a call that succeeded.

    In permissive mode, the ids in ``data`` belong, in order, to the items whose index is not in ``errors``. If the
    numbers do not match, all items become unknown. An item's error may be about our sender, in which case every item
    has it.
    """
    unclear: list[Outcome] = [Unknown(Reason.ANSWER_UNCLEAR)] * count
    data, errors = ([found], []) if count == 1 else (get(found, "data"), get(found, "errors") or [])
    if not isinstance(data, list) or not isinstance(errors, list):
        return unclear
    ids = [one for item in data if (one := message_id(get(item, "id")))]
    bad = {index: _of_item(error) for error in errors if isinstance(index := get(error, "index"), int)}
    good = [index for index in range(count) if index not in bad]
    if not len(ids) == len(data) == len(good) == count - len(bad):
        return unclear
    accepted = dict(zip(good, ids, strict=True))
    return [Delivered(accepted[index]) if index in accepted else bad[index] for index in range(count)]


def _of_item(error: object) -> Outcome:
    """Return what an item's error means."""
    match _about_words(text(get(error, "message"))):
        case About.US:
            return Blocked(Reason.BLOCKED.of("item"))
        case About.QUOTA:
            return Blocked(Reason.QUOTA.of("item"))
        case About.MESSAGE:
            return Rejected(Reason.REJECTED.of("item"))
        case About.NOTHING:
            return Rejected(Reason.REJECTED.of("item"), Blame.UNCLEAR)
