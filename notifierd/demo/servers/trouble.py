"""The configuration of the local mail API and push service: their devices, and the failures that they inject.

All of it is data, so that a test or the demo can define it in one place, and JSON can carry it to the servers' process.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, Self

import attrs
from attrs import Factory, define, field, frozen


@frozen
class Rule:
    """A failure to inject into some calls. The first rule that matches decides what happens to a call.

    Attributes:
        to: match calls that have this mail address among theirs, or go to this device's token; "" for every call.
        then: "answer" with *status*; "hang" until the client gives up; "cut" the connection without an answer.
        accept: carry out the call first, as if all was well: the message is sent, and only the answer is lost.
        status: HTTP status of an "answer".
        name: its error name; "" for the usual one of that status.
        retry_after: seconds, for a ``Retry-After`` header; None for no header.
        after: how many matching calls to spare before the first failure.
        times: how many calls fail then; None for no end.
        seconds: stop this long after the first failure; None for no end.
    """

    to: str = ""
    then: Literal["answer", "hang", "cut"] = "answer"
    accept: bool = False
    status: int = 503
    name: str = ""
    retry_after: int | None = None
    after: int = 0
    times: int | None = None
    seconds: float | None = None


@frozen
class PushDevice:
    """A browser, as its push service knows it.

    Attributes:
        id: the subscription's id in the application.
        token: the last part of its endpoint.
        private_key: the P-256 scalar, 32 bytes in base64url; real push services never see it.
        auth: the authentication secret of RFC 8291, 16 bytes in base64url.
    """

    id: str
    token: str
    private_key: str = field(repr=False)
    auth: str = field(repr=False)


def _rules(items: Iterable[Rule | Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(item if isinstance(item, Rule) else Rule(**item) for item in items)


def _devices(items: Iterable[PushDevice | Mapping[str, Any]]) -> tuple[PushDevice, ...]:
    return tuple(item if isinstance(item, PushDevice) else PushDevice(**item) for item in items)


@frozen
class MailConfig:
    """The behaviour of the mail API.

    Attributes:
        api_key: the only key that it accepts.
        latency_ms: how long each call takes before it is carried out.
        rejected: addresses whose messages it rejects (422, or an item of ``errors`` in a permissive batch).
        rules: further failures.
        keep_eml: also write every accepted mail as a file; this costs the servers about a millisecond each.
        honours_keys: carry out a call once for its ``Idempotency-Key``; else as often as it comes, as most APIs do.
        feedback_key: the key that it tells what became of mails.
        became: what becomes of the mails to some addresses; all others are delivered.
    """

    api_key: str = "re_demo"
    latency_ms: float = 0.0
    rejected: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    rules: tuple[Rule, ...] = field(default=(), converter=_rules)
    keep_eml: bool = True
    honours_keys: bool = True
    feedback_key: str = "re_demo_full_access"
    became: Mapping[str, str] = Factory(dict)


@frozen
class PushConfig:
    """The behaviour of the push service.

    Attributes:
        latency_ms: how long each call takes before it is carried out.
        devices: all that it knows; any other token is answered 404.
        gone: tokens of devices that have unsubscribed (410).
        rules: further failures.
    """

    latency_ms: float = 0.0
    devices: tuple[PushDevice, ...] = field(default=(), converter=_devices)
    gone: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    rules: tuple[Rule, ...] = field(default=(), converter=_rules)


@frozen
class ServersConfig:
    """The behaviour of both servers."""

    mail: MailConfig = MailConfig()
    push: PushConfig = PushConfig()

    def to_json(self) -> str:
        """Return the configuration as one line of JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse what ``to_json`` or a person wrote; keys that are left out have their defaults.

        Raises:
            ValueError: it is not JSON.
            TypeError: a key is unknown.
        """
        data = json.loads(text)
        return cls(**{name: {"mail": MailConfig, "push": PushConfig}[name](**part) for name, part in data.items()})


@define
class Script:
    """The rules in progress: counts the calls that each has matched."""

    _rules: tuple[Rule, ...]
    _clock: Callable[[], float]
    _seen: dict[int, int] = Factory(dict)
    _began: dict[int, float] = Factory(dict)

    def strike(self, targets: Collection[str]) -> Rule | None:
        """Return the rule for a call to *targets*, if any matches. Call it once for each call."""
        for number, rule in enumerate(self._rules):
            if rule.to and rule.to not in targets:
                continue
            self._seen[number] = self._seen.get(number, 0) + 1
            turn = self._seen[number] - rule.after
            if turn <= 0 or (rule.times is not None and turn > rule.times):
                continue
            now = self._clock()
            if rule.seconds is not None and now - self._began.setdefault(number, now) > rule.seconds:
                continue
            return rule
        return None
