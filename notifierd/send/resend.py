"""Resend: https://resend.com/docs/api-reference/emails/send-email and .../send-batch-emails."""

from collections.abc import Callable, Sequence
from datetime import datetime

import orjson

from notifierd.model import Blame, Blocked, Deferred, Delivered, Mail, Outcome, Rejected, Unknown
from notifierd.send._http import Answer, Client, classify, message_id
from notifierd.settings import ResendSettings

IN_PROGRESS_SECONDS = 2.0
"""To wait while the same call is still being worked on; Resend names no figure."""

OURS = frozenset({"invalid_from_address", "not_found", "method_not_allowed"})
"""Errors beside 401 and 403 that no message is to blame for: our sender, our base_url."""

QUOTAS = frozenset({"daily_quota_exceeded", "monthly_quota_exceeded"})
"""Said with status 429, but waiting does not clear them (https://resend.com/docs/api-reference/errors)."""


class Resend:
    """One mail by ``POST /emails``, more by ``POST /emails/batch`` in permissive mode.

    Strict mode, the default, turns a whole batch away for one bad item
    (https://resend.com/docs/dashboard/emails/batch-validation-modes). Keys are remembered for 24 hours, for one HTTP
    call each, on both endpoints (https://resend.com/docs/dashboard/emails/idempotency-keys).

    ``from`` is refused in encoded words, and other addresses are with a name in quotes
    (https://github.com/anymail/django-anymail/blob/main/anymail/backends/resend.py).
    """

    name = "resend"
    max_batch = 100
    honours_keys = True

    def __init__(self, client: Client, settings: ResendSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url = settings.base_url
        self._headers = {"Authorization": f"Bearer {settings.api_key}", "Content-Type": "application/json"}

    def lane(self, message: Mail) -> str:  # noqa: ARG002 - one account, one lane
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
        answer = await self._client.post(self._url + path, body, headers)
        if not isinstance(answer, Answer):
            return [answer] * len(messages)
        said = answer.json()
        outcome = self._of_call(answer, str(_get(said, "name")))
        if isinstance(outcome, Delivered):
            return _of_items(said, len(messages))
        if isinstance(outcome, Rejected) and len(messages) > 1:
            # One item may be to blame, and nothing says which: the others must not fail with it.
            outcome = Deferred(f"batch_{outcome.reason}", blame=Blame.MESSAGE)
        return [outcome] * len(messages)

    def _of_call(self, answer: Answer, name: str) -> Outcome:
        """Return what the call as a whole came to: https://resend.com/docs/api-reference/errors.

        *name* is the error's.
        """
        wait = answer.retry_after(self._now())
        if answer.status == 429 and name in QUOTAS:  # noqa: PLR2004 - Too Many Requests
            return Blocked("quota:429", wait)
        if answer.status == 409:  # noqa: PLR2004 - Conflict: said of the key only
            if name == "concurrent_idempotent_requests":
                return Unknown("in_progress:409", wait or IN_PROGRESS_SECONDS)
            return Unknown("key_conflict:409", key_usable=False)
        if 400 <= answer.status < 500 and name in OURS:  # noqa: PLR2004 - the client's errors
            return Blocked(f"blocked:{answer.status}", wait)
        return classify(answer, self._now())


def _get(found: object, name: str) -> object:
    return found.get(name) if isinstance(found, dict) else None


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
    """Return what became of each item of a call that went through.

    In permissive mode the ids in ``data`` belong, in order, to the items that ``errors`` does not name by their index.
    An answer that does not add up tells nothing of any item.
    """
    unclear: list[Outcome] = [Unknown("answer_unclear")] * count
    data, errors = ([found], []) if count == 1 else (_get(found, "data"), _get(found, "errors") or [])
    if not isinstance(data, list) or not isinstance(errors, list):
        return unclear
    ids = [one for item in data if (one := message_id(_get(item, "id")))]
    bad = {index for error in errors if isinstance(index := _get(error, "index"), int)}
    good = [index for index in range(count) if index not in bad]
    if not len(ids) == len(data) == len(good) == count - len(bad):
        return unclear
    accepted = dict(zip(good, ids, strict=True))
    return [Delivered(accepted[index]) if index in accepted else Rejected("rejected:item") for index in range(count)]
