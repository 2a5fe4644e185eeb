"""What systemd is told of the service: the datagrams of sd_notify(3). Silent where nobody listens."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from attrs import frozen


@frozen
class Notifier:
    """Where notices go, as the environment of a service says.

    Attributes:
        address: of a datagram socket: a path, or an abstract name after ``@``; "" for nobody.
        watchdog: seconds within which systemd wants a sign of life; 0 for no watchdog.
    """

    address: str = ""
    watchdog: float = 0.0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Notifier":
        """Who is to be told, by NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3))."""
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "") if ours else ""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address, int(microseconds) / 1e6 if address and microseconds.isdecimal() else 0.0)

    def ready(self) -> None:
        """The service is up, or back from a reload."""
        self._send("READY=1")

    def starting(self, seconds: float) -> None:
        """The service is not up yet, and may take *seconds* more for it, whatever TimeoutStartSec says."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. With the moment, or ``Type=notify-reload`` waits for it in vain."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """The service ends, and may take *seconds* for it, whatever TimeoutStopSec says."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def status(self, text: str) -> None:
        """What goes on, in words."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Something went on since the last sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        # Never waits: a manager that does not read must not stop the service. What is lost is a status, or is repeated.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(lines).encode(errors="replace"), socket.MSG_DONTWAIT, address)
