"""``notifierd check --connect``: call each provider once, to prove the key; nothing is sent.

The webhook and the ping URL are secrets, and a call of either would be noticed. So only their host is asked, for ``/``;
Chatwork is asked for the room, with the token.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import trio

from notifierd.commands.finding import Finding, Level
from notifierd.config.load import missing_for_sending
from notifierd.config.settings import Settings
from notifierd.model.errors import ConfigError
from notifierd.model.feedback import MailStatus
from notifierd.model.outcome import Blocked, Delivered, Outcome, Probe, Unknown
from notifierd.model.reasons import Reason
from notifierd.send import Provable
from notifierd.send._answers import Answer, probed
from notifierd.send._http import open_client, parse_url
from notifierd.send.feedback.open import open_feedback
from notifierd.send.open import open_email
from notifierd.send.webhooks import TOKEN_HEADER, of_room, room_url
from notifierd.service.feedback.look import providers_set_up

Question = Callable[[], Awaitable[Finding]]


async def look_at_providers(settings: Settings) -> list[Finding]:
    """Call everything that *settings* name and that can be called without effect, at once; return a finding for each.

    Each call may take `limits.send_timeout`.
    """
    questions = [*_mail(settings), *_feedback(settings), *_push(settings), *_watch(settings)]
    findings: dict[int, Finding] = {}

    async def ask(place: int, question: Question) -> None:
        findings[place] = await question()

    async with trio.open_nursery() as nursery:
        for place, question in enumerate(questions):
            nursery.start_soon(ask, place, question)
    return [findings[place] for place in range(len(questions))]


def _mail(settings: Settings) -> list[Question]:
    missing = missing_for_sending(settings)
    names = [name for name in settings.email.providers if not any(f"email.{name}." in line for line in missing)]
    return [partial(_ask, name, settings) for name in names]


def _feedback(settings: Settings) -> list[Question]:
    return [partial(_ask_feedback, name, settings) for name in providers_set_up(settings)]


def _push(settings: Settings) -> list[Question]:
    """Push services have no call that sends nothing, and a key is proven by a device only."""
    push = settings.push
    if not push.enabled or push.allow_private_addresses:  # then it is a test set-up, of any scheme and port
        return []
    hosts = [host for host in push.allowed_hosts if not host.startswith("*.")]
    return [partial(_reach, "push.allowed_hosts", f"https://{host}", settings, public_only=True) for host in hosts]


def _watch(settings: Settings) -> list[Question]:
    urls = {"watch.webhook_url": settings.watch.webhook_url, "watch.ping_url": settings.watch.ping_url}
    questions: list[Question] = [partial(_reach, key, url, settings) for key, url in urls.items() if url]
    if settings.watch.format == "chatwork" and room_url(settings.watch.webhook_url):
        questions[0] = partial(_ask_chatwork, settings)
    return questions


async def _ask(name: str, settings: Settings) -> Finding:
    subject = f"email.{name}"
    try:
        async with open_email(name, settings, now=_now) as sender:
            if not isinstance(sender, Provable):
                text = "has no call that proves the key and sends nothing; `notifierd test` sends one message"
                return Finding(subject, Level.OK, text)
            with trio.move_on_after(settings.limits.send_timeout):
                return _of_probe(subject, await sender.probe())
    except ConfigError:  # reported already
        return Finding(subject, Level.BAD, "cannot be called with this configuration")
    return _of_probe(subject, Probe("the call", Unknown(Reason.TIMEOUT)))


async def _ask_feedback(name: str, settings: Settings) -> Finding:
    """Ask whether the provider can be asked what became of mails."""
    subject = f"email.{name}.feedback"
    reason, cannot = str(Reason.TIMEOUT), ""
    try:
        with trio.move_on_after(settings.limits.send_timeout):
            async with open_feedback(name, settings, now=_now) as reader:
                if reader is not None:
                    cannot = ", ".join(status for status in MailStatus if status not in reader.tells)
                    reason = await reader.probe()
    except ConfigError:  # reported already
        return Finding(subject, Level.BAD, "cannot be called with this configuration")
    if not reason:
        return Finding(subject, Level.OK, "tells what became of mails" + (f", except: {cannot}" if cannot else ""))
    if any(known.begins(reason) for known in OURS_TO_MEND):
        return Finding(subject, Level.BAD, f"does not tell what became of mails: {explained(reason)}")
    return Finding(subject, Level.AWAY, f"could not be asked what became of mails: {explained(reason)}")


async def _ask_chatwork(settings: Settings) -> Finding:
    """Ask Chatwork for the room, to prove the token: no member of it notices that."""
    probe = Probe("GET of the room", Unknown(Reason.TIMEOUT))
    with trio.move_on_after(settings.limits.send_timeout):
        async with open_client(width=1, network=settings.network) as client:
            call = client.get(room_url(settings.watch.webhook_url), {TOKEN_HEADER: settings.watch.webhook_token})
            probe = await probed(probe.call, call, lambda answer: of_room(answer, _now()))
    return _of_probe("watch.webhook_token", probe)


OURS_TO_MEND = (Reason.NO_RIGHT, Reason.BLOCKED, Reason.ACCESS_DENIED, Reason.BAD_SIGNATURE, Reason.NOT_FOUND)


def _of_probe(subject: str, probe: Probe) -> Finding:
    """Return what *probe* means: it is good, the provider rejects us, or it could not be asked."""
    match probe.outcome:
        case Delivered():
            text = "; ".join([f"accepts the key ({probe.call})", *probe.notes])
            return Finding(subject, Level.WARN if probe.notes else Level.OK, text)
        case Blocked(reason):
            return Finding(subject, Level.BAD, f"rejects the key or the account ({probe.call}): {explained(reason)}")
        case outcome:
            return Finding(subject, Level.AWAY, f"could not be asked ({probe.call}): {reason_of(outcome)}")


async def _reach(subject: str, url: str, settings: Settings, *, public_only: bool = False) -> Finding:
    """Ask the server of *url* for its root; whatever it answers, it can be reached."""
    parsed = parse_url(url)
    if parsed is None:
        return Finding(subject, Level.WARN, "is no URL that can be called")
    answer: Outcome | Answer = Unknown(Reason.TIMEOUT)
    with trio.move_on_after(settings.limits.send_timeout):
        async with open_client(width=1, network=settings.network, public_only=public_only) as client:
            answer = await client.get(f"{parsed.origin}/", {})
    if isinstance(answer, Answer):
        return Finding(subject, Level.OK, f"{parsed.host} can be reached")
    return Finding(subject, Level.WARN, f"{parsed.host} cannot be reached: {reason_of(answer)}")


def reason_of(outcome: Outcome) -> str:
    """Return the reason of *outcome*, with what it means, unless that speaks of a message that may have arrived."""
    if isinstance(outcome, Delivered):
        return ""
    return outcome.reason if isinstance(outcome, Unknown) else explained(outcome.reason)


def explained(reason: str) -> str:
    """Return a *reason* with what it means."""
    known = Reason.explaining(reason)
    return f"{reason}: {known.english}" if known else reason


def _now() -> datetime:
    return datetime.now(UTC)
