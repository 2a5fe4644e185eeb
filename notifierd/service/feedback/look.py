"""One look: every provider that is set up is asked, at the same time, and what it tells is kept.

A trouble of one provider is that provider's result. What a look has kept when it is cut off stays; the next look asks
about the same time again.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog
import trio

from notifierd.config.settings import Settings
from notifierd.model.errors import DatabaseError, first_of, frame_locations
from notifierd.model.reasons import Reason
from notifierd.rules.looks import asked_since
from notifierd.send.feedback import FeedbackReader, Look, Looked
from notifierd.send.feedback.open import READERS, is_set_up, reach_of
from notifierd.store.feedback import LOOK_LEASE_SECONDS, Asked, Feedback, RunEnd

MOST_SECONDS = 5400.0
"""The longest time that one provider may be asked. Amazon SES needs almost an hour for 3,000 mails."""

RENEW_EVERY = 5.0

MARGIN = 5.0
"""Seconds before the lease expires at which a look that could not renew it is cut off."""

RELEASE_SECONDS = 2.0
"""The longest time that the release of the lease may delay the end of a look."""

log = structlog.get_logger(__name__)


class OpenReader(Protocol):
    """Opens the reader of a provider, as `open_feedback`."""

    def __call__(
        self, provider: str, settings: Settings, *, now: Callable[[], datetime]
    ) -> AbstractAsyncContextManager[FeedbackReader | None]:
        """Open it; None if the provider's table does not set it up."""
        ...


def providers_set_up(settings: Settings) -> tuple[str, ...]:
    """Return the providers that can be asked, those that send first."""
    others = (name for name in READERS if name not in settings.email.providers)
    return tuple(name for name in (*settings.email.providers, *others) if is_set_up(name, settings))


@asynccontextmanager
async def hold_look_lease(feedback: Feedback, holder: str, must_end: Callable[[], bool]) -> AsyncIterator[bool]:
    """Hold the lease for asking during the block; yield False if another process has it.

    The block is cut off if *must_end* says so, if a run begins in any process, or if the lease cannot be renewed in
    time.
    """
    asked = trio.current_time()
    if not await feedback.take_look_lease(holder):
        yield False
        return
    with trio.CancelScope(deadline=asked + LOOK_LEASE_SECONDS - MARGIN) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_lease, feedback, holder, scope, must_end)
            try:
                yield True
            finally:
                with trio.move_on_after(RELEASE_SECONDS, shield=True), suppress(DatabaseError):
                    await feedback.release_look_lease(holder)
            nursery.cancel_scope.cancel()


async def _keep_lease(feedback: Feedback, holder: str, scope: trio.CancelScope, must_end: Callable[[], bool]) -> None:
    while True:
        await trio.sleep(RENEW_EVERY)
        asked = trio.current_time()
        with suppress(DatabaseError):
            if must_end() or await feedback.is_running() or not await feedback.renew_look_lease(holder):
                scope.cancel()
            scope.deadline = asked + LOOK_LEASE_SECONDS - MARGIN


async def ask_all(
    feedback: Feedback,
    settings: Settings,
    runs: Sequence[RunEnd],
    open_reader: OpenReader,
    now: Callable[[], datetime],
) -> Mapping[str, Looked]:
    """Ask every provider that is set up about the mails of *runs*; return how that ended, by provider.

    A provider that sends no mails any more is left out, once it has none of those days.

    Raises:
        DatabaseError: the result could not be written; in an exception group.
    """
    found: dict[str, Looked] = {}
    until = {state.provider: state.complete_until for state in await feedback.looks()}

    async def ask_one(provider: str) -> None:
        looked, result = Looked(Reason.TIMEOUT), None
        try:
            with trio.move_on_after(MOST_SECONDS):
                looked, result = await _ask(provider, feedback, settings, runs, until.get(provider), open_reader, now)
        except* Exception as group:  # noqa: BLE001 - one provider's trouble must not end the others' looks
            looked = Looked(_reason(provider, first_of(group)))
        if looked is not NOT_ASKED:
            await feedback.note_look(provider, None if looked.incomplete else result, looked.incomplete)
            found[provider] = looked

    async with trio.open_nursery() as nursery:
        for provider in providers_set_up(settings):
            nursery.start_soon(ask_one, provider)
    return found


NOT_ASKED = Looked("not_asked")
"""The result for a provider about whose mails there is nothing to ask."""


async def _ask(  # noqa: PLR0913, PLR0917 - what a look needs
    provider: str,
    feedback: Feedback,
    settings: Settings,
    runs: Sequence[RunEnd],
    complete_until: datetime | None,
    open_reader: OpenReader,
    now: Callable[[], datetime],
) -> tuple[Looked, datetime]:
    """Return how a look at one provider ended, and until when it asked."""
    reach = reach_of(provider, settings)
    oldest = (now() - timedelta(days=reach.days)).date()
    mails = await feedback.sent([run.day for run in runs if run.day >= oldest], reach.most)
    asked = mails.by_provider.get(provider)
    until = now()  # a mail that is sent after its id was looked for is sent after the end of this look, too
    if asked is None and provider not in settings.email.providers:
        return NOT_ASKED, until
    asked = asked or Asked()
    look = Look(asked_since(complete_until, reach.kept, until), until, asked.sent, asked.unknown)
    async with open_reader(provider, settings, now=now) as reader:
        return (NOT_ASKED if reader is None else await reader.look(look, partial(feedback.keep, provider))), until


def _reason(provider: str, error: BaseException) -> str:
    """Return the code of the reason why a look at *provider* failed; log an error that is a bug."""
    if isinstance(error, DatabaseError):
        return error.reason
    log.error("look_failed", provider=provider, error=type(error).__name__, where=frame_locations(error))
    return Reason.UNREADABLE.of(type(error).__name__)
