"""Putting together what a run works with, from the configuration and an open database."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import trio

from notifierd.choose import Rules
from notifierd.contract import system_identifier, view_problems
from notifierd.db import Database
from notifierd.deps import Deps, Line, Progress, Stop
from notifierd.errors import ConfigError
from notifierd.gate import Gates
from notifierd.ledger import PostgresLedger
from notifierd.life import Policy
from notifierd.model import Channel
from notifierd.render import Renderer
from notifierd.schedule import Calendar
from notifierd.schema import require_current
from notifierd.send.open import open_email, open_push
from notifierd.settings import Settings
from notifierd.source import PostgresSource

LANE_SHARE = 4
"""One push service gets at most a quarter of the slots, so that one that hangs does not starve the others."""


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def rules_of(settings: Settings) -> Rules:
    """Who is due, by the configuration. With all mail redirected there is no device to push to."""
    return Rules(
        horizon_days=settings.content.horizon_days,
        overdue=settings.content.overdue,
        push=settings.push.enabled and not settings.safety.redirect_to,
        only_offices=frozenset(settings.safety.only_offices),
    )


def holder_name() -> str:
    """This process, as the ledger names it."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


async def require_fit(db: Database, settings: Settings) -> None:
    """See that the database is one that a run may work on.

    Raises:
        SchemaMissing: the ledger's schema is not there, or not of this program.
        ConfigError: a view is not as the contract has it, or this is not the database that ``[safety]`` names.
    """
    if settings.safety.database_id and await system_identifier(db) != settings.safety.database_id:
        raise ConfigError(("safety.database_id: this is another database cluster; nothing was read or sent",))
    await require_current(db)
    problems = await view_problems(db)
    if problems:
        raise ConfigError(tuple(problems))


@asynccontextmanager
async def open_deps(
    settings: Settings, db: Database, *, window_left: float, stop: Stop, progress: Progress
) -> AsyncIterator[Deps]:
    """Open the senders, and put a run's parts together.

    Args:
        window_left: seconds until the run begins nothing more.
    """
    limits, rules, calendar = settings.limits, rules_of(settings), Calendar(settings.window)
    async with AsyncExitStack() as stack:
        lines: dict[Channel, Line] = {
            Channel.EMAIL: Line(
                await stack.enter_async_context(open_email(settings, now=utc_now)),
                trio.CapacityLimiter(limits.email),
                interval=1.0 / limits.email_per_second if limits.email_per_second else 0.0,
            )
        }
        if rules.push:
            lines[Channel.PUSH] = Line(
                await stack.enter_async_context(open_push(settings, now=utc_now)),
                trio.CapacityLimiter(limits.push),
                lane_share=max(1, limits.push // LANE_SHARE),
            )
        yield Deps(
            ledger=PostgresLedger(db, settings.database.plan_timeout),
            source=PostgresSource(db),
            lines=lines,
            policies={
                Channel.EMAIL: Policy(limits.attempts, settings.email.on_unknown),
                Channel.PUSH: Policy(limits.attempts),
            },
            offices=trio.CapacityLimiter(limits.offices),
            renderer=Renderer(settings),
            rules=rules,
            gates=Gates(trio.current_time),
            send_timeout=limits.send_timeout,
            holder=holder_name(),
            window_left=window_left,
            day_ends=calendar.day_ends,
            now=utc_now,
            new_id=uuid4,
            stop=stop,
            progress=progress,
        )
