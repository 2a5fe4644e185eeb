"""Notifications for systemd: the datagrams of sd_notify(3). Without a listener, none is sent."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from attrs import frozen


@frozen
class Notifier:
    """The receiver of notifications that the environment of a service names.

    Attributes:
        address: the address of a datagram socket: a path, or an abstract name after ``@``; "" for none.
        watchdog: seconds within which systemd expects a sign of life; 0 for no watchdog.
    """

    address: str = ""
    watchdog: float = 0.0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Notifier":
        """Make one from NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3))."""
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "") if ours else ""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address, int(microseconds) / 1e6 if address and microseconds.isdecimal() else 0.0)

    def ready(self) -> None:
        """Report that the service is up, or that its reload is over."""
        self._send("READY=1")

    def starting(self, seconds: float) -> None:
        """Ask for *seconds* more for the start, regardless of TimeoutStartSec."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it. ``Type=notify-reload`` requires the time of the beginning."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """Report that the service stops, and ask for *seconds* for that, regardless of TimeoutStopSec."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def status(self, text: str) -> None:
        """Report the status, in words."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Give a sign of life: something was done since the last one."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        # This never waits: a manager that does not read must not stop the service. A lost datagram is repeated, or is
        # only a status.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(lines).encode(errors="replace"), socket.MSG_DONTWAIT, address)
