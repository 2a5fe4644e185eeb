"""The state that the providers' APIs have in common."""
# ruff: noqa: PLR0913, PLR0917 - what happened to a mail has this many parts

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from notifierd.model.feedback import MailStatus

Reply = tuple[int, Mapping[str, str], bytes]
"""An answer: its status, its headers, and its body."""


class Fake(ABC):
    """An API that tells what became of mails.

    Attributes:
        key: what its callers have to show.
    """

    key = "feedback-key"

    def __init__(self) -> None:
        self._left: int | None = None

    @abstractmethod
    def add(
        self, delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
    ) -> None:
        """Note that *status* happened to a mail at *at*; a mail can be added several times."""

    @abstractmethod
    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one call; *headers* are by lower-case names."""

    def later(self) -> None:  # noqa: B027 - most APIs do not change with time
        """Let a few minutes pass."""

    def cut_after(self, requests: int | None) -> None:
        """Answer so many more calls, and none after them; None answers all."""
        self._left = requests

    def handler(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """Answer one call; None cuts its connection."""
        if self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        return self.answer(method, target, headers, body)


def query_of(target: str) -> dict[str, str]:
    """Return the parameters of a request's target."""
    return dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))


def reply(status: int, found: object, **headers: str) -> Reply:
    """Return an answer in JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(found).encode()
