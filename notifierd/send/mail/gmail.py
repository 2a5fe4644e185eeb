"""Gmail: https://developers.google.com/gmail/api/reference/rest/v1/users.messages/send."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from notifierd.config.providers import GmailSettings
from notifierd.model.errors import ConfigError
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, meaning, message_id, outcomes, text
from notifierd.send._http import Client
from notifierd.send._words import About, about
from notifierd.send.mail.mime import dated, undated
from notifierd.send.mail.oauth import ServiceAccount, load_key

SCOPE = "https://www.googleapis.com/auth/gmail.send"

RATE_LIMITS = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
"""Reasons that come with status 403 or 429 (https://developers.google.com/gmail/api/guides/handle-errors)."""

DAILY = "dailyLimitExceeded"
MAIL_SENDING = "Mail sending"
"""The text of a 429 when the user's daily limit is reached (the same page), which lasts for hours."""

OURS = frozenset({"failedPrecondition", "notFound"})
"""Errors besides 401 and 403 that are not about a message: the user has no mailbox, or the base_url is wrong."""


UNAUTHORIZED = Reason.BLOCKED.of(401)
"""The reason of an outcome that a new token may fix."""


class Gmail:
    """One mail for each call; the whole MIME message is made here.

    Google's batches save nothing: each part counts as a call (https://developers.google.com/gmail/api/guides/batch). No
    idempotency key is documented. For some minutes after the user's daily limit is reached, Gmail may answer 200 for
    mails that it does not send (.../gmail/api/guides/handle-errors): set `limits.email_per_day` below the limit.
    """

    name = "gmail"
    max_batch = 1
    honours_keys = False

    def __init__(self, client: Client, settings: GmailSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url = f"{settings.base_url}/gmail/v1/users/me/messages/send"
        self._account = service_account(client, settings, now, SCOPE)

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one user, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        """Return the message without its Date, which `send` adds."""
        (mail,) = messages
        return undated(mail)

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - one mail; there are no keys
        raw = base64.urlsafe_b64encode(dated(body, self._now())).decode()
        body = json.dumps({"raw": raw}).encode()
        outcome = await self._try(body)
        if isinstance(outcome, Blocked) and outcome.reason == UNAUTHORIZED:
            outcome = await self._try(body)  # certainly not accepted, so it may be repeated with another token
        return [outcome]

    async def probe(self) -> Probe:
        """Get an access token for the user: Google issues one only to an account with the delegation."""
        token = await self._account.token()
        return Probe("an access token", Delivered() if isinstance(token, str) else token)

    async def _try(self, body: bytes) -> Outcome:
        token = await self._account.token()
        if not isinstance(token, str):
            return token

        def read(answer: Answer) -> list[Outcome]:
            if answer.status == 401:  # noqa: PLR2004 - Unauthorized
                self._account.forget(token)
            return [self._read(answer)]

        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        (outcome,) = await outcomes(self._client.post(self._url, body, headers), 1, read)
        return outcome

    def _read(self, answer: Answer) -> Outcome:
        """https://developers.google.com/gmail/api/guides/handle-errors."""
        found, status, wait = answer.json(), answer.status, answer.retry_after(self._now())
        error = get(found, "error")
        reasons = set(error_reasons(error))
        if 400 <= status < 500:  # noqa: PLR2004 - the client's errors
            if DAILY in reasons or (reasons & RATE_LIMITS and MAIL_SENDING in text(get(error, "message"))):
                return Blocked(Reason.QUOTA.of(status), wait)
            if reasons & RATE_LIMITS:
                return Deferred(Reason.RATE_LIMITED.of(status), wait, Blame.PROVIDER)
            if reasons & OURS:
                return Blocked(Reason.BLOCKED.of(status), wait)
        outcome = meaning(status, about_error(error), wait)
        if not isinstance(outcome, Delivered):
            return outcome
        taken = message_id(get(found, "id"))
        return Delivered(taken) if taken else Unknown(Reason.ANSWER_UNCLEAR)


def about_error(error: object) -> About | None:
    """Return what an error is about; None if it is not from the API: Google's front end answers with HTML pages."""
    if get(error, "code") is None and get(error, "errors") is None:
        return None
    return about(text(get(error, "message")))


def service_account(client: Client, settings: GmailSettings, now: Callable[[], datetime], scope: str) -> ServiceAccount:
    """Return the account that may act for the user within *scope*.

    Raises:
        ConfigError: its key is not usable.
    """
    account = json.loads(settings.service_account)
    try:
        key = load_key(account["private_key"])
    except ValueError as error:
        raise ConfigError((f"email.gmail.service_account: its private_key is {error} (an RSA key in PEM)",)) from error
    return ServiceAccount(
        client,
        now,
        email=account["client_email"],
        key=key,
        key_id=str(account.get("private_key_id", "")),
        url=settings.token_url,
        user=settings.user,
        scope=scope,
    )


def error_reasons(error: object) -> Iterator[str]:
    """Yield the reasons that an error names."""
    errors = get(error, "errors")
    for each in errors if isinstance(errors, list) else []:
        yield text(get(each, "reason"))
