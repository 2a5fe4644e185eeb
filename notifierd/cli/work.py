"""What the commands share that read the configuration and work with the database."""

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import trio

from notifierd.config.load import load
from notifierd.config.settings import Settings
from notifierd.model.errors import unwrap_groups
from notifierd.service import logs, memory

T = TypeVar("T")


def run_async(work: Callable[[], Awaitable[T]]) -> T:
    """Run *work* to its end, or until Ctrl-C if *work* does not handle that itself.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
    """
    memory.settle_in()
    with unwrap_groups():
        return trio.run(_until_interrupted, work)


async def _until_interrupted(work: Callable[[], Awaitable[T]]) -> T:
    """Cancel *work* at Ctrl-C. Trio's own KeyboardInterrupt may hit inside trio_asyncio's loop, which then hangs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_at_interrupt, nursery.cancel_scope)
        result = await work()
        nursery.cancel_scope.cancel()
        return result
    raise KeyboardInterrupt


async def _cancel_at_interrupt(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


def settings_of(context: click.Context) -> Settings:
    """Return the configuration that the command line names, and set up the log as it says."""
    settings = load(context.obj)
    logs.set_up(settings.log.level, settings.log.format)
    return settings
