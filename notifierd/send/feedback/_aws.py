"""Signed calls to Amazon SES and to a queue of Amazon SQS, and what their errors mean."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlsplit

import orjson
from attrs import define, field, frozen

from notifierd.config.providers import SesSettings
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, NoAnswer, get, text
from notifierd.send._http import Client
from notifierd.send._words import about
from notifierd.send.feedback._reading import Failed, ask, is_cut, refusal
from notifierd.send.mail.ses import REFUSALS, THROTTLES, error_of
from notifierd.send.mail.sigv4 import Signer

BATCH = 10
"""The most messages that SQS hands out or deletes at once
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html)."""

WAIT_SECONDS = 1
"""How long SQS waits for a message. Without waiting, it asks only some of its servers, and the answer may be empty
although the queue is not (.../SQSDeveloperGuide/sqs-short-and-long-polling.html)."""

HIDDEN_SECONDS = 60
"""How long a message that was handed out stays hidden. By then it is deleted, or it comes again."""

DENIED = frozenset({"AccessDeniedException", "AccessDenied", "NotAuthorized"})
"""The errors of a user without the permission: SQS', SES' and
https://docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html."""

NO_QUEUE = frozenset({"QueueDoesNotExist", "NonExistentQueue"})
""".../APIReference/API_ReceiveMessage.html, Errors; the second one is its name in the query protocol."""


def failure(answer: Answer, action: str) -> Failed:
    """Return why *action*, which is also the name of the permission for it, failed."""
    kind, words = error_of(answer)
    if 400 <= answer.status < 500:  # noqa: PLR2004 - the client's errors
        if kind in THROTTLES:
            return Failed(Reason.RATE_LIMITED.of(answer.status))
        if kind in DENIED:
            return Failed(Reason.NO_RIGHT.of(answer.status, action))
        if kind.rpartition(".")[2] in NO_QUEUE:
            return Failed(Reason.NOT_FOUND.of(answer.status))
        if kind in REFUSALS:
            return Failed(REFUSALS[kind].of(answer.status))
    return refusal(answer.status, about(words) if kind else None)


class SesApi:
    """GET calls to SES."""

    def __init__(self, client: Client, settings: SesSettings, now: Callable[[], datetime]) -> None:
        self._client, self._url, self._now = client, settings.endpoint, now
        self._signer = _signer(settings, settings.region, "ses")

    async def get(self, path: str) -> Answer | NoAnswer:
        url = f"{self._url}{path}"
        headers = self._signer.sign("GET", url, {"Host": urlsplit(url).netloc}, b"", self._now())
        return await self._client.get(url, headers)


@frozen
class Message:
    """A message of the queue."""

    receipt: str
    body: str = field(repr=False)


@define
class Queue:
    """A queue of SQS, by its JSON protocol (.../SQSDeveloperGuide/sqs-json-api-responses.html).

    It hands out each message at least once, until the message is deleted.
    """

    _client: Client
    _settings: SesSettings
    _now: Callable[[], datetime]
    _batch: int = BATCH
    """Messages that are asked for at once; fewer once an answer was too long to be read."""

    async def receive(self) -> Sequence[Message] | Failed | None:
        """Return some of the queue's messages; none if it is empty, and None if the answer is too long to be read."""
        query = {
            "MaxNumberOfMessages": self._batch,
            "VisibilityTimeout": HIDDEN_SECONDS,
            "WaitTimeSeconds": WAIT_SECONDS,
        }
        found = await ask(
            self._call("ReceiveMessage", query), lambda answer: None if is_cut(answer) else _messages(answer)
        )
        if found is None and self._batch > 1:
            self._batch //= 2
        return found

    async def delete(self, messages: Sequence[Message]) -> str:
        """Delete *messages*; return the code of the reason why some are still there, "" if none are."""
        entries = [{"Id": str(number), "ReceiptHandle": one.receipt} for number, one in enumerate(messages)]
        call = self._call("DeleteMessageBatch", {"Entries": entries})
        found = await ask(call, lambda answer: _deleted(answer, len(messages)))
        return found.reason if isinstance(found, Failed) else ""

    async def probe(self) -> str:
        found = await ask(self._call("GetQueueAttributes", {"AttributeNames": ["QueueArn"]}), _attributes)
        return found.reason if isinstance(found, Failed) else ""

    async def _call(self, action: str, query: Mapping[str, object]) -> Answer | NoAnswer:
        url = self._settings.feedback_queue
        origin = urlsplit(url)
        endpoint = f"{origin.scheme}://{origin.netloc}/"
        region = _REGION.match(origin.netloc)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "Host": origin.netloc,
            "X-Amz-Target": f"AmazonSQS.{action}",
        }
        body = orjson.dumps({"QueueUrl": url, **query})
        signer = _signer(self._settings, region[1] if region else self._settings.region, "sqs")
        return await self._client.post(endpoint, body, signer.sign("POST", endpoint, headers, body, self._now()))


CONTENT_TYPE = "application/x-amz-json-1.0"

_REGION = re.compile(r"sqs\.([a-z0-9-]+)\.", re.ASCII)


def _signer(settings: SesSettings, region: str, service: str) -> Signer:
    return Signer(settings.access_key_id, settings.secret_access_key, settings.session_token, region, service)


def _messages(answer: Answer) -> Sequence[Message] | Failed:
    """Return the messages of an answer. For an empty queue, it is an empty object."""
    found = answer.json()
    messages = get(found, "Messages") or []
    if not _is_own(answer, found) or not isinstance(messages, list) or len(messages) > BATCH:
        return failure(answer, "sqs:ReceiveMessage")
    read = [Message(text(get(one, "ReceiptHandle")), text(get(one, "Body"))) for one in messages]
    return read if all(one.receipt for one in read) else Failed(Reason.UNREADABLE)


def _deleted(answer: Answer, count: int) -> Failed | None:
    found = answer.json()
    done = get(found, "Successful")
    if not _is_own(answer, found) or not isinstance(done, list):
        return failure(answer, "sqs:DeleteMessage")
    return None if len(done) == count else Failed(Reason.UNEXPECTED.of(answer.status))


def _attributes(answer: Answer) -> Failed | None:
    is_own = isinstance(get(answer.json(), "Attributes"), dict) and answer.status == 200  # noqa: PLR2004 - OK
    return None if is_own else failure(answer, "sqs:GetQueueAttributes")


def _is_own(answer: Answer, found: object) -> bool:
    """Return whether an answer is SQS' own; for an empty queue, only its media type tells.

    .../SQSDeveloperGuide/sqs-json-api-responses.html.
    """
    is_json = answer.headers.get("content-type", "").partition(";")[0].strip().lower() == CONTENT_TYPE
    return answer.status == 200 and isinstance(found, dict) and is_json  # noqa: PLR2004 - OK
